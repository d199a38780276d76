"""Its settings: the database comes from the environment, and the table is the queue."""

import json
import os
from typing import Any

SECRET_KEY = "for benchmarks only"
USE_TZ = True
INSTALLED_APPS = ["lambda_tasks", "benchmarks.limited"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES: dict[str, Any] = {"default": json.loads(os.environ["BENCHMARK_DATABASE"])}
LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
LAMBDA_TASKS_MODULES = ["benchmarks.limited.tasks"]

if DATABASES["default"]["ENGINE"] == "django.db.backends.mysql":
    import pymysql

    pymysql.version_info = (2, 2, 8, "final", 0)  # what Django asks of mysqlclient
    pymysql.install_as_MySQLdb()
