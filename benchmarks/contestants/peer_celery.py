"""Celery on Redis, with two prefork processes and no result backend."""

import os

from celery import Celery

from benchmarks.contestants import peer

app = Celery("benchmark", broker=os.environ["BENCHMARK_REDIS"])
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
