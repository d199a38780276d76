"""Running tasks here and now, by the real executor, as a worker does."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from asgiref.sync import ThreadSensitiveContext, sync_to_async

from .. import conf
from .. import runtime as runtimes
from ..core.lifecycle import Status
from ..entrypoints.worker import Listener, worker_of
from ..errors import NothingToRun
from ..execution.interruptible_thread import InterruptibleThread
from ..models import TaskRecord
from ..ports import Delivery
from ..records import queries
from ..records import steering as rows
from ..records.filters import as_uuid
from ..records.postponing import make_due
from ..twins import sync_form
from .checking import check_number, check_time, known_queue
from .steering import refuse_retry

DRAIN_S: Final = 25.0
"""Seconds for tasks to end that run when the time is over."""


@dataclass(frozen=True, slots=True)
class RunCount:
    """What has run."""

    done: int
    """The calls that have come to an end."""
    failed: int
    """The calls among them that are FAILED."""
    returned: int
    """The calls that were interrupted when the time was over. They run later."""


@sync_form("arun_tasks(...)")
def run_tasks(
    *,
    max_tasks: int | None = None,
    queue: str | Iterable[str] | None = None,
    within: timedelta | None = None,
) -> RunCount:
    """Run what is due, on this process, until there is nothing to do; return the counts.

    At most `max_tasks` begin. `queue` names queues that workers consume, by default all. After
    `within` nothing more begins; what runs then has 25 seconds to end, and goes back after them.
    Raises InvalidFilter for a number, a time or a queue that makes no sense, and
    ImproperlyConfigured for a queue that no worker consumes.
    """
    return asyncio.run(arun_tasks(max_tasks=max_tasks, queue=queue, within=within))


async def arun_tasks(
    *,
    max_tasks: int | None = None,
    queue: str | Iterable[str] | None = None,
    within: timedelta | None = None,
) -> RunCount:
    """See run_tasks()."""
    return await work(max_tasks=max_tasks, queue=queue, within=within)


async def work(
    *,
    max_tasks: int | None,
    queue: str | Iterable[str] | None,
    within: timedelta | None,
    drain_s: float = DRAIN_S,
    listener: Listener | None = None,
    stops_on_signals: bool = False,
) -> RunCount:
    """See run_tasks(). With `stops_on_signals`, Ctrl-C and SIGTERM let what runs end.

    `drain_s` are the seconds in which what runs has to end when the time is over.
    """
    if max_tasks is not None:
        check_number("max_tasks", max_tasks, least=1)
    if within is not None:
        check_time("within", within)
    queues = queue_names(queue)
    loop = asyncio.get_running_loop()
    # A runtime of its own: this process may have one that others use meanwhile.
    runtime = runtimes.Runtime()
    async with worker_of(runtime, queues, once=True, drain_s=drain_s, listener=listener) as worker:
        if stops_on_signals:
            worker.stop_on_signals()
        stopping = None if within is None else loop.call_later(within.total_seconds(), worker.stop)
        try:
            await worker.run(max_tasks=max_tasks)
        finally:
            if stopping is not None:
                stopping.cancel()
    return RunCount(worker.done, worker.failed, worker.cut_off)


@sync_form("arun_task(...)")
def run_task(id: UUID | str, *, retry: bool = False) -> TaskRecord:
    """Run one stored call on this process, now, and return its record as it is then.

    One that is due later is due now. With `retry`, a FAILED or CANCELLED one starts over. If
    another worker runs it already, its record is still RUNNING; if its singleton is locked, QUEUED.

    Raises NothingToRun where there is no record of it, where it has ended, and where it can't run
    now: it is a step that waits for others, or its secret arguments can't be decrypted.
    """
    return asyncio.run(arun_task(id, retry=retry))


async def arun_task(id: UUID | str, *, retry: bool = False) -> TaskRecord:
    """See run_task()."""
    record = await sync_to_async(_prepared)(id, retry=retry)
    found = await sync_to_async(rows.stored_messages)([record.id], conf.current().look_terms)
    if not found:
        raise NothingToRun(
            f"{record} can't run now: it has ended meanwhile, waits for other steps of its "
            "workflow, or its secret arguments can't be decrypted."
        )
    delivery = Delivery(
        id=str(record.id),
        source=record.queue,
        fallback_id=record.id,
        message=found[0].message,
        is_redelivered=False,
    )
    await _run(delivery)
    return await sync_to_async(queries.find)(record.id) or record


async def _run(delivery: Delivery) -> None:
    """Run a delivery in an executor of its own, on whose thread it uses the database."""
    runtime = runtimes.Runtime()
    runtime.portal.adopt(asyncio.get_running_loop())
    database_thread = InterruptibleThread("lambda_tasks-run")
    async with ThreadSensitiveContext(executor=database_thread):
        executor = runtime.executor(concurrency=1, processes=1)
        try:
            await executor.run(
                [delivery],
                deadline=None,
                metadata={"runtime": "here"},
                on_settled=lambda *_: None,
            )
        finally:
            await executor.aclose()
            await runtimes.aclose(runtime)
            await database_thread.aclose()


def find_runnable(id: UUID | str, *, retry: bool) -> TaskRecord:
    """Return the record of a call that can run. Raises NothingToRun, with the reason."""
    record = _find(id)
    if record.status == Status.WAITING:
        raise NothingToRun(f"{record} is WAITING: other steps of its workflow have to end first.")
    if not Status(record.status).is_finished:
        return record
    if record.status not in rows.RETRYABLE:
        raise NothingToRun(f"{record} is {record.status}. Replay it, to run its call anew.")
    if not retry:
        raise NothingToRun(f"{record} is {record.status}. Retry it.")
    return record


def _prepared(id: UUID | str, *, retry: bool) -> TaskRecord:
    """Return the record of a call, which is due now."""
    record = find_runnable(id, retry=retry)
    if record.status in rows.RETRYABLE:
        look_terms = conf.current().look_terms
        changed = rows.reopen([record.id], refuse_retry, look_terms, dry_run=False)
        if reason := changed.skipped.get(record.id):
            raise NothingToRun(f"{record} can't be retried: {reason}.")
    make_due(record.id)
    return record


def _find(id: UUID | str) -> TaskRecord:
    known = as_uuid(id)
    record = queries.find(known)
    if record is None:
        raise NothingToRun(f"There is no record of {known}.")
    return record


def queue_names(queue: str | Iterable[str] | None) -> Collection[str]:
    """Return the names of queues, by default all that workers consume. Raises InvalidFilter."""
    if queue is None:
        return [name for name, each in conf.current().queues.items() if each.has_workers]
    return [known_queue(name) for name in ([queue] if isinstance(queue, str) else queue)]
