"""A table of records that is filled, and what looks for records in it."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from statistics import median
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.db import connection
from django.test.utils import CaptureQueriesContext

from benchmarks.contestants.database import migrate, postgres_version
from benchmarks.contestants.work.tasks import trivial
from lambda_tasks import runtime
from lambda_tasks.core.lifecycle import End, Succeeded
from lambda_tasks.core.message import Message
from lambda_tasks.enqueue.prepare import prepare
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery, Granted, ResolvedDelivery, TableQueue
from lambda_tasks.records.clock import Now
from lambda_tasks.tasks import cleanup_task_records

__all__ = [
    "analyze", "fill", "hold_snapshot", "life", "look", "migrate", "postgres_version",
    "run_through",
]  # fmt: skip

NEW_ID: Final = {
    "postgresql": "gen_random_uuid()",
    "mysql": "REPLACE(UUID(), '-', '')",
    "sqlite": "LOWER(HEX(RANDOMBLOB(16)))",
}
"""SQL of a new id, by the database's vendor."""

BATCH: Final = 10
"""Tasks whose statements are shared, as in an event of SQS."""

WEEK: Final = timedelta(days=7)


def fill(*, state: str, rows: int) -> None:
    """Store so many records in one state: finished, sent or scheduled."""
    seed = TaskRecord.objects.create(**_columns(state))
    TaskRecord.objects.filter(id=seed.id).update(root_id=seed.id)
    # Copies of copies, as fast as the database copies.
    names = [str(field.column) for field in TaskRecord._meta.concrete_fields]
    copied = ", ".join(NEW_ID[connection.vendor] if name == "id" else name for name in names)
    table = TaskRecord._meta.db_table
    n_rows = 1
    with connection.cursor() as cursor:
        while n_rows < rows:
            condition = f"task_name = '{state}' LIMIT {rows - n_rows}"
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(names)}) SELECT {copied} FROM {table}"
                f" WHERE {condition}"
            )
            n_rows += cursor.rowcount


def run_through(*, rows: int) -> None:
    """Store so many records that are due, one after the other, and finish them."""
    fill(state="run", rows=rows)
    table = TaskRecord._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET status = 'SUCCESS', look_at = NULL, start_time = look_at,"
            " end_time = look_at WHERE task_name = 'run'"
        )


def _columns(state: str) -> dict[str, Any]:
    common = {"task_name": state, "kwargs": {"number": 1}, "enqueued_at": Now()}
    if state == "finished":
        ended = {"status": "SUCCESS", "start_time": Now(), "end_time": Now()}
        return {**common, **ended, "queue": "table", "sent_at": Now(), "n_attempts": 1}
    if state == "run":
        return {**common, "queue": "table", "look_at": Now() - timedelta(hours=1)}
    if state == "sent":
        return {**common, "sent_at": Now(), "look_at": Now() + timedelta(days=1)}
    due = {"run_after": Now() + WEEK, "look_at": Now() + WEEK}
    return {**common, **due, "queue": "table"}


def analyze() -> None:
    """Let the database learn what is in the table, as it does by itself in time."""
    with connection.cursor() as cursor:
        cursor.execute({
            "postgresql": "VACUUM ANALYZE",
            "mysql": f"ANALYZE TABLE {TaskRecord._meta.db_table}",
            "sqlite": "ANALYZE",
        }[connection.vendor])  # fmt: skip
        cursor.fetchall() if connection.vendor == "mysql" else None


def look(*, of: str, times: int) -> float:
    """Milliseconds of one look that finds nothing, or for a worker ten due rows."""
    if "worker" in of:
        trivial.using(queue="table").execute_many_on_commit(
            [{"number": number} for number in range(10)]
        )
    busy = runtime.current().table_queue
    looks: dict[str, Callable[[], None]] = {
        "relay": _relay,
        "worker": lambda: _find_due(runtime.current().table_queue),
        "busy worker": lambda: _find_due(busy),
        "cleanup": _clean_up,
    }
    try:
        return 1000 * median(_seconds(looks[of]) for _ in range(times))
    finally:
        TaskRecord.objects.filter(queue="table", status="QUEUED", run_after=None).delete()


def _relay() -> None:
    async_to_sync(runtime.current().relay.run_once)()


def _find_due(table: TableQueue) -> None:
    with table.lock_due(["table"], limit=10) as messages:
        assert len(messages) == 10


def _clean_up() -> None:
    cleanup_task_records(retention_days=7)


def _seconds(action: Callable[[], None]) -> float:
    began_at = time.perf_counter()
    action()
    return time.perf_counter() - began_at


_snapshots = ExitStack()


def hold_snapshot() -> None:
    """Keep a snapshot open on a connection of its own, until this process ends."""
    other = connection.copy()
    _snapshots.callback(other.close)
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT COUNT(*) FROM django_migrations")


def close() -> None:
    _snapshots.close()


def life(*, tasks: int) -> dict[str, float]:
    """Statements, microseconds of the server, and bytes of WAL for one task, call to end."""
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit TO off")  # else it is the disk that is measured
    active_before, wal_before = _active_ms(), _wal_bytes()
    for _ in range(0, tasks, BATCH):
        _live()
    with CaptureQueriesContext(connection) as statements:
        _live()
    return {
        "statements": len(statements) / BATCH,
        "us": 1000 * (_active_ms() - active_before) / tasks,
        "wal": (_wal_bytes() - wal_before) / tasks,
    }


def _live() -> None:
    """Store a batch of messages, mark them as sent, claim them, and write their ends."""
    outbox, claims = runtime.current().outbox, runtime.current().claims
    outgoing = [
        prepare(trivial.name, {"number": number}, queue="default", durable=True)
        for number in range(BATCH)
    ]
    outbox.insert_queued(outgoing)
    outbox.mark_sent(outgoing)
    deliveries = [_delivered(each.message) for each in outgoing]
    verdicts = claims.claim(deliveries, lease=timedelta(minutes=5), max_attempts=5)
    granted = [each for each in verdicts.values() if isinstance(each, Granted)]
    ended = claims.finish_many([End(each.claim, Succeeded(0)) for each in granted])
    assert len(ended.ids) == BATCH


def _delivered(message: Message) -> ResolvedDelivery:
    id = message.invocation_id
    delivery = Delivery(id=str(id), source="", fallback_id=id)
    return ResolvedDelivery(delivery=delivery, message=message, task=trivial)


def _active_ms() -> float:
    """Milliseconds that the server has spent on statements of this database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT active_time FROM pg_stat_database WHERE datname = current_database()"
        )
        return float(cursor.fetchone()[0])


def _wal_bytes() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return int(cursor.fetchone()[0])
