"""The verbs of `manage.py lambda_tasks`: each parses its arguments, calls one object and prints.

The docstring of a verb's module is what its `--help` shows.
"""
