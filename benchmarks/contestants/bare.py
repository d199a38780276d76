"""A Django project with neither of the task libraries in use: its settings, and nothing else."""
