"""Its settings: the database comes from the environment, and messages bring their calls along."""

import json
import os
from typing import Any

SECRET_KEY = "for benchmarks only"
USE_TZ = True
INSTALLED_APPS = ["lambda_tasks", "benchmarks.watched.apps.WatchedConfig"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES: dict[str, Any] = {"default": json.loads(os.environ["BENCHMARK_DATABASE"])}
LAMBDA_TASKS_QUEUES = {"default": "http://127.0.0.1:9/000000000000/default"}
LAMBDA_TASKS_MODULES = ["benchmarks.watched.tasks"]
LAMBDA_TASKS_PROCESSES = 1
if os.environ.get("BENCHMARK_WATCHING") == "metrics":
    LAMBDA_TASKS_METRICS = "Benchmark"
