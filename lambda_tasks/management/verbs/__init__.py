"""The verbs of `manage.py lambda_tasks`: each takes its arguments, calls one object and prints."""
