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

if DATABASES["default"]["ENGINE"] == "django.db.backends.mysql":
    import pymysql

    pymysql.version_info = (2, 2, 8, "final", 0)  # what Django asks of mysqlclient
    pymysql.install_as_MySQLdb()
    # The server has no TLS. For each connection PyMySQL makes a TLS context all the same, with all
    # certificates of the machine: under faults, with a connection opened every second, these
    # fragment the memory of the allocator by 2.5 MiB a minute.
    DATABASES["default"].setdefault("OPTIONS", {})["ssl_disabled"] = True

LAMBDA_TASKS_QUEUES = {
    "default": {"queue_url": os.environ["BENCHMARK_QUEUE_URL"]},
    **({"table": {"database": True}} if "BENCHMARK_TABLE" in os.environ else {}),
}
# The events of the benchmarks bring their calls along, as those of django-lambda-tasks do.
LAMBDA_TASKS_DIRECT_MESSAGES = "any"
LAMBDA_TASKS_MODULES = [
    "benchmarks.contestants.work.async_tasks",
    "benchmarks.contestants.work.orders",
]
if "BENCHMARK_HOOKS" in os.environ:
    LAMBDA_TASKS_MODULES.append("benchmarks.contestants.work.hooked")
if "BENCHMARK_SCHEDULES" in os.environ:
    LAMBDA_TASKS_MODULES.append("benchmarks.contestants.work.scheduled")
if "BENCHMARK_FLOWS" in os.environ:
    LAMBDA_TASKS_MODULES.append("benchmarks.contestants.work.flows")
if "BENCHMARK_STEPS" in os.environ:
    LAMBDA_TASKS_MODULES.append("benchmarks.contestants.work.stepped")
if "BENCHMARK_MARKS" in os.environ:
    LAMBDA_TASKS_MODULES.append("benchmarks.contestants.work.marks")
LAMBDA_TASKS_DURABLE = "BENCHMARK_DURABLE" in os.environ
LAMBDA_TASKS_WAIT_FOR_SEND = "BENCHMARK_WAITS" in os.environ

if "BENCHMARK_LOGBOOK" in os.environ:  # the mixed load
    LAMBDA_TASKS_MODULES = ["benchmarks.contestants.work.mixed"]
    # Where something is killed all the time, who is killed often is no suspect.
    LAMBDA_TASKS_MAX_ATTEMPTS = 20
    LOGGING = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {"format": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"}
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "lambda_tasks": {"level": "INFO", "handlers": ["console"], "propagate": False},
        },
    }
