"""Settings of the bookshop. On its own it runs tasks at once; given a queue, on Lambda."""

import json
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[1]

DEBUG = True
SECRET_KEY = "an example has no secrets"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "bookshop.urls"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "lambda_tasks",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
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
STATIC_URL = "static/"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BOOKSHOP_DATABASE", BASE_DIR / "var" / "shop.sqlite3"),
        # Several processes write: wait for one another instead of failing.
        "OPTIONS": {
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

# SQLite has one writer at a time: more tasks at once would only wait for it.
LAMBDA_TASKS_CONCURRENCY = 2
LAMBDA_TASKS_PROCESSES = 1

if "BOOKSHOP_QUEUE_URL" in os.environ:
    LAMBDA_TASKS_QUEUES = {"default": os.environ["BOOKSHOP_QUEUE_URL"]}
    LAMBDA_TASKS_AWS = json.loads(os.environ["BOOKSHOP_AWS"])
else:
    LAMBDA_TASKS_EAGER = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"task": {"()": "lambda_tasks.logging.TaskContextFilter"}},
    "formatters": {"line": {"format": "{levelname} {name} {message}", "style": "{"}},
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "level": os.environ.get("BOOKSHOP_LOG_LEVEL", "INFO"),
            "filters": ["task"],
            "formatter": "line",
        }
    },
    # To the handler above, instead of one of Django's own.
    "loggers": {"django": {"handlers": [], "level": "INFO", "propagate": True}},
    "root": {"handlers": ["console"], "level": "INFO"},
}
