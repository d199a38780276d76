"""Celery with two prefork processes and no result backend, on Redis or SQS."""

import os
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from benchmarks.contestants import peer

QUEUE_URL = os.environ["BENCHMARK_QUEUE_URL"]
REGION = os.environ["AWS_DEFAULT_REGION"]
KEYS = {
    "access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
    "secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
}


def _on_sqs() -> Celery:
    """Short polls, as often as one asks: after a long one its client waits for a timer of 1 s."""
    on_sqs = Celery("benchmark", broker=f"sqs://{urlsplit(QUEUE_URL).netloc}//")
    on_sqs.conf.task_default_queue = "benchmark"
    options: dict[str, Any] = {
        "region": REGION,
        "is_secure": False,
        "wait_time_seconds": 0,
        "polling_interval": 0.01,
        "predefined_queues": {"benchmark": {"url": QUEUE_URL, "region": REGION, **KEYS}},
    }
    on_sqs.conf.broker_transport_options = options
    on_sqs.conf.worker_enable_remote_control = False  # which would make queues of its own
    return on_sqs


def _on_redis() -> Celery:
    return Celery("benchmark", broker=os.environ["BENCHMARK_REDIS"])


app = _on_sqs() if os.environ.get("BENCHMARK_BROKER") == "sqs" else _on_redis()
app.conf.task_ignore_result = True
app.conf.worker_hijack_root_logger = False

APP = "benchmarks.contestants.peer_celery:app"
COMMANDS = [["-m", "celery", "-A", APP, "worker", "--concurrency=2", "--loglevel=ERROR"]]


@app.task
def mark() -> None:
    peer.mark()


def work_off(*, kind: str, messages: int) -> dict[str, float]:
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(messages):
            mark.apply_async(producer=producer)
    return peer.work_off(messages, COMMANDS)


def lone(*, kind: str, calls: int) -> float:
    return peer.lone(mark.delay, COMMANDS, calls)
