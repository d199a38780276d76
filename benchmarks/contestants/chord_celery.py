"""A chord of Celery beside the same tasks as a group, on Redis, which also has the results."""

import os
import time
from typing import Any, Final

from celery import Celery, chain, chord, group

from benchmarks.contestants import peer

REDIS: Final = os.environ["BENCHMARK_REDIS"]

app = Celery("benchmark", broker=REDIS, backend=REDIS)
app.conf.worker_hijack_root_logger = False

APP: Final = "benchmarks.contestants.chord_celery:app"
COMMANDS: Final = [["-m", "celery", "-A", APP, "worker", "--concurrency=2", "--loglevel=ERROR"]]


@app.task
def mark(number: int) -> int:
    peer.mark()
    return number


@app.task
def total(numbers: list[int]) -> int:
    peer.mark()
    return sum(numbers)


def join(*, members: int, joined: bool) -> float:
    """Members a second of a worker, from the first mark to the last one."""
    header = [mark.s(number) for number in range(members)]
    asked: Any = chord(header)(total.s()) if joined else group(header).apply_async()
    figures = peer.work_off(members + joined, COMMANDS)
    if joined:
        assert asked.get(timeout=60) == sum(range(members))
    return figures["per_second"]


def latency(*, steps: int) -> float:
    """Milliseconds of each step of a chain, by an idle worker."""
    peer.start(COMMANDS)
    try:
        _run_chain(2)
        began = time.perf_counter()
        _run_chain(steps)
        return 1000 * (time.perf_counter() - began) / steps
    finally:
        peer.stop()


def _run_chain(steps: int) -> None:
    asked: Any = chain(*(mark.si(number) for number in range(steps)))
    asked.apply_async().get(timeout=60)
