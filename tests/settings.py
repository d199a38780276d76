"""The test project. The database comes from the environment, so that worker processes and
handler processes, which load this module anew, work on the one that the tests use."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

SECRET_KEY = "for tests only"
USE_TZ = True
ROOT_URLCONF = "tests.urls"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "lambda_tasks",
    "tests.app",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


def sqlite(name: str) -> dict[str, Any]:
    """A file, as worker processes can't share a database in memory."""
    own = os.environ.get("PYTEST_XDIST_WORKER", "")
    file = f"lambda_tasks_tests_{os.getuid()}_{name}{own}.sqlite3"
    path = Path(tempfile.gettempdir()) / file
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(path),
        "TEST": {"NAME": str(path)},
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
        },
    }


_databases = os.environ.get("LAMBDA_TASKS_TEST_DATABASES")
DATABASES = json.loads(_databases) if _databases else {"default": sqlite("default")}

if DATABASES["default"]["ENGINE"] == "django.db.backends.mysql":
    import pymysql

    pymysql.version_info = (2, 2, 8, "final", 0)  # what Django asks of mysqlclient
    pymysql.install_as_MySQLdb()

LAMBDA_TASKS_LOCAL_WORKERS = int(os.environ.get("LAMBDA_TASKS_TEST_LOCAL_WORKERS", "0"))
ALLOWED_HOSTS = ["testserver", "127.0.0.1"]

_caches = os.environ.get("LAMBDA_TASKS_TEST_CACHES")
CACHES = (
    json.loads(_caches)
    if _caches
    else {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
)

LAMBDA_TASKS_QUEUES = {
    "default": os.environ.get("LAMBDA_TASKS_TEST_QUEUE", "http://127.0.0.1:9/000000000000/default"),
    "other": os.environ.get("LAMBDA_TASKS_TEST_QUEUE", "http://127.0.0.1:9/000000000000/default")
    + "-other",
    "fifo": os.environ.get("LAMBDA_TASKS_TEST_QUEUE", "http://127.0.0.1:9/000000000000/default")
    + ".fifo",
    "table": {"database": True},
    "heavy": {
        "job_queue_arn": "arn:aws:batch:us-east-1:123456789012:job-queue/heavy",
        "job_definition_arn": "arn:aws:batch:us-east-1:123456789012:job-definition/heavy:1",
    },
}
LAMBDA_TASKS_MODULES = [
    f"tests.app.{name}"
    for name in (
        "django_tasks", "everywhere", "ledger", "outages", "places", "pooling", "processes",
        "resuming", "secretive", "sessions", "stubborn", "turns", "waiting", "watched",
    )
]  # fmt: skip
TASKS = {
    "default": {
        "BACKEND": "lambda_tasks.backends.LambdaTasksBackend",
        "QUEUES": ["default", "other", "table", "heavy"],
    },
    "at_once": {
        "BACKEND": "lambda_tasks.backends.LambdaTasksBackend",
        "OPTIONS": {"ENQUEUE_ON_COMMIT": False},
    },
}
# Most tests bring their calls along; those of this setting have the default.
LAMBDA_TASKS_DIRECT_MESSAGES = "any"
LAMBDA_TASKS_SIGNING_KEYS = [
    key for key in os.environ.get("LAMBDA_TASKS_TEST_SIGNING_KEYS", "").split(",") if key
]
# The URLs include the endpoints; the tests of endpoints say themselves who may call them.
LAMBDA_TASKS_ENDPOINTS = {"health": "open"}
_aws = os.environ.get("LAMBDA_TASKS_TEST_AWS")
# Most tests look at SQS right after a call; those of sending in the background have the default.
LAMBDA_TASKS_WAIT_FOR_SEND = bool(os.environ.get("LAMBDA_TASKS_TEST_WAIT_FOR_SEND", "yes"))
LAMBDA_TASKS_AWS = json.loads(_aws) if _aws else {"region_name": "us-east-1"}
