"""Requests of a web process that write a row in a transaction, with a durable call and without."""

import itertools
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache, partial
from typing import Any, Final
from uuid import uuid4

from django.db import connection, connections, transaction

from benchmarks.contestants.database import migrate
from benchmarks.contestants.work.models import Order
from benchmarks.contestants.work.tasks import welcome
from lambda_tasks import conf, runtime
from lambda_tasks.models import TaskRecord

__all__ = ["empty", "in_threads", "in_turns", "migrate", "together"]

UNSENT: Final = welcome.using(run_after=timedelta(days=1))
"""A call whose row is written, and that waits there: nothing is sent."""

KINDS: Final = ("none", "inserted", "stored", "sent")
"""A request without a call, with only the INSERT of one, with one that is stored and not sent, and
with one that is sent."""

_numbers = itertools.count()


def in_turns(*, requests: int) -> dict[str, list[float]]:
    """Seconds of each request of the KINDS, which take turns."""
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(requests + 5):
        for kind in KINDS:
            add = _added_by(kind)
            began_at = time.perf_counter()
            _request(add)
            if number >= 5:  # the first ones open connections
                seconds[kind].append(time.perf_counter() - began_at)
    return seconds


def in_threads(*, requests: int, threads: int, kind: str) -> float:
    """Requests per second of so many threads, all of one of the KINDS."""
    add = _added_by(kind)

    def serve(count: int) -> None:
        for _ in range(count):
            _request(add)
        connections.close_all()

    began_at = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(serve, [requests // threads] * threads))
    seconds = time.perf_counter() - began_at
    _finish()
    return requests / seconds


def together(*, calls: int) -> float:
    """Seconds from the begin of one transaction with so many calls until all are marked as sent."""
    began_at = time.perf_counter()
    with transaction.atomic():
        for _ in range(calls):
            welcome.execute_on_commit(user_id=1, template="welcome")
    _finish()
    return time.perf_counter() - began_at


def empty() -> int:
    """Delete all rows; return how many calls were not marked as sent."""
    unsent = TaskRecord.objects.filter(sent_at=None, run_after=None).count()
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE work_order, lambda_tasks_taskrecord CASCADE")
    return unsent


def _request(add: Callable[[], object]) -> None:
    with transaction.atomic():
        Order.objects.create(number=next(_numbers))
        add()


def _added_by(kind: str) -> Callable[[], object]:
    """Return what a request of one of the KINDS does more."""
    if kind == "none":
        return lambda: None
    if kind == "inserted":
        return _insert_alone()
    return partial(
        (UNSENT if kind == "stored" else welcome).execute_on_commit, user_id=1, template="welcome"
    )


@cache
def _insert_alone() -> Callable[[], object]:
    """Return what executes the INSERT of a call's record, and nothing else of it."""
    found: list[tuple[str, dict[str, Any]]] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, *rest: Any) -> Any:
        if TaskRecord._meta.db_table in sql:
            found.append((sql, dict(params)))
        return execute(sql, params, *rest)

    with transaction.atomic(), connection.execute_wrapper(note):
        UNSENT.execute_on_commit(user_id=1, template="welcome")
    ((sql, params),) = found

    def insert() -> None:
        id = uuid4()
        with connection.cursor() as cursor:
            cursor.execute(sql, {**params, "id": id, "root_id": id})

    return insert


def _finish() -> None:
    """Wait until all is sent and marked, where that goes on in the background."""
    if not conf.current().wait_for_send:
        here = runtime.current()
        here.portal.call(here.background.drain)


def close() -> None:
    runtime.close()
    print("the contestant has ended", file=sys.stderr)
