"""The package of the command `manage.py lambda_tasks`."""
