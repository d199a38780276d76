"""Celery on SQS: `delay()`, a request for each message, one at a time."""

import os
import time
from urllib.parse import urlsplit

from celery import Celery

QUEUE_URL = os.environ["BENCHMARK_QUEUE_URL"]
ENDPOINT = urlsplit(QUEUE_URL).netloc
KEYS = {"access_key_id": "test", "secret_access_key": "test"}

app = Celery("benchmark", broker=f"sqs://test:test@{ENDPOINT}//")
app.conf.task_ignore_result = True
app.conf.task_default_queue = "benchmark"
app.conf.broker_transport_options = {
    "region": "us-east-1",
    "is_secure": False,
    "predefined_queues": {"benchmark": {"url": QUEUE_URL, **KEYS}},
}


@app.task
def welcome(user_id: int, template: str) -> None:
    """What is enqueued; it never runs."""


def send(*, messages: int, form: str) -> float:
    """Seconds for so many messages."""
    began_at = time.perf_counter()
    for number in range(messages):
        welcome.delay(user_id=number, template="welcome")
    return time.perf_counter() - began_at


def close() -> None:
    app.close()
