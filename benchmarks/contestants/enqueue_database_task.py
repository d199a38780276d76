"""django-database-task with its SQS backend: a row and a request for each task, in one transaction.

In a project of its own, as its settings are.
"""

import json
import os
import time
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.management import call_command
from django.db import transaction

QUEUE_URL = urlsplit(os.environ["BENCHMARK_QUEUE_URL"])

settings.configure(
    USE_TZ=True,
    INSTALLED_APPS=["django_database_task"],
    DATABASES={"default": json.loads(os.environ["BENCHMARK_DATABASE"])},
    TASKS={
        "default": {
            "BACKEND": "django_database_task.sqs.SQSDatabaseBackend",
            "QUEUES": ["benchmark"],
            "OPTIONS": {
                "SQS_QUEUE_URL_TEMPLATE": os.environ["BENCHMARK_QUEUE_URL"],
                "SQS_ENDPOINT_URL": f"{QUEUE_URL.scheme}://{QUEUE_URL.netloc}",
            },
        }
    },
)
django.setup()

from django.tasks import task  # noqa: E402


@task(queue_name="benchmark")
def welcome(user_id: int, template: str) -> None:
    """What is enqueued; it never runs."""


def migrate() -> list[str]:
    """Make the tables."""
    call_command("migrate", verbosity=0)
    return []


def send(*, messages: int, form: str) -> float:
    """Seconds for so many messages."""
    began_at = time.perf_counter()
    with transaction.atomic():
        for number in range(messages):
            welcome.enqueue(user_id=number, template="welcome")
    return time.perf_counter() - began_at
