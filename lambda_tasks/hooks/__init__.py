"""Hooks: functions of a project that are called with an event of a task's life.

    from lambda_tasks import hooks


    @hooks.ended.connect
    def count(run: hooks.Ended) -> None:
        statsd.incr(f"tasks.{run.task_name}.{run.outcome}")

Connect them where every process loads them: in AppConfig.ready() or in a `tasks` module. A hook is
sync or async. What it raises is logged, and changes nothing for the task.
"""

from typing import Any

from .events import (
    BatchEnded,
    BatchRun,
    Cancelled,
    Ended,
    Ending,
    Enqueued,
    FailedUnbegun,
    GivenBack,
    Relayed,
    Sent,
    Started,
    Ticked,
)
from .hook import Hook

enqueued: Hook[Enqueued] = Hook("enqueued")
"""Called once for each call, in the caller's thread, context and transaction.

It may add headers to the call. Its record is written right after it, so it may still be rolled
back.
"""

sent: Hook[Sent] = Hook("sent")
"""Called once for each send that a queue has accepted. Beside."""

started: Hook[Started] = Hook("started")
"""Called once for each attempt, when the task starts: in its process, thread and context.

The task's transaction begins after it.
"""

ended: Hook[Ended] = Hook("ended")
"""Called once for each attempt that has started, after its outcome is recorded.

It is called where `started` was. If the attempt could not end by itself, because its process died,
was interrupted by shutdown or lost the database, it is called beside, in the parent process.
"""

given_back: Hook[GivenBack] = Hook("given_back")
"""Called once for each delivery that returns to its queue. Beside."""

failed_unbegun: Hook[FailedUnbegun] = Hook("failed_unbegun")
"""Called once for each invocation that is FAILED without a run in this process. Beside."""

cancelled: Hook[Cancelled] = Hook("cancelled")
"""Called once for each invocation that is cancelled, or skipped by its schedule. Beside.

The process that cancels it calls them.
"""

relayed: Hook[Relayed] = Hook("relayed")
"""Called once for each round of the relay. Beside."""

ticked: Hook[Ticked] = Hook("ticked")
"""Called once for each round of schedules and relay: by a tick, an event or a worker. Beside."""

batch_ended: Hook[BatchEnded] = Hook("batch_ended")
"""Called once for each batch of deliveries that a function or a worker has settled. Beside.

It is called in the process that received them, wherever they ran.
"""

ALL: tuple[Hook[Any], ...] = (
    enqueued,
    sent,
    started,
    ended,
    given_back,
    failed_unbegun,
    cancelled,
    relayed,
    ticked,
    batch_ended,
)
"""All hooks, in the order of a task's life."""

__all__ = [
    "ALL",
    "BatchEnded",
    "BatchRun",
    "Cancelled",
    "Ended",
    "Ending",
    "Enqueued",
    "FailedUnbegun",
    "GivenBack",
    "Hook",
    "Relayed",
    "Sent",
    "Started",
    "Ticked",
    "batch_ended",
    "cancelled",
    "ended",
    "enqueued",
    "failed_unbegun",
    "given_back",
    "relayed",
    "sent",
    "started",
    "ticked",
]
