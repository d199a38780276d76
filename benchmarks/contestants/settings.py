"""The Django settings of both task libraries; what differs comes from the environment."""

import json
import os

SECRET_KEY = "for benchmarks only"
USE_TZ = True
INSTALLED_APPS = ["lambda_tasks", "benchmarks.contestants.work"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Both keep their connections: by Django's default django-lambda-tasks would open one per task.
DATABASES = {
    "default": {"CONN_MAX_AGE": None, **json.loads(os.environ["BENCHMARK_DATABASE"])},
}

LAMBDA_TASKS_QUEUES = {
    "default": {"queue_url": os.environ["BENCHMARK_QUEUE_URL"]},
    **({"table": {"database": True}} if "BENCHMARK_TABLE" in os.environ else {}),
}
LAMBDA_TASKS_DURABLE = "BENCHMARK_DURABLE" in os.environ
