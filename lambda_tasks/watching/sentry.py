"""Sentry: traces, scopes, tags and monitors of tasks, on the hooks.

`instrument()` connects them. Errors need nothing of it: the line about a final failure is an ERROR
of `lambda_tasks.task`, of which Sentry's logging integration makes the one event. What is here
gives that event the task's scope. Needs the extra `sentry`. Nothing is patched.
"""

import multiprocessing
from collections.abc import Awaitable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID

from asgiref.sync import sync_to_async
from django.utils.text import slugify

from .. import hooks
from ..context import SCHEDULE_HEADER, run_of_this_code
from ..core.redaction import redact_value
from ..core.schedules import Cron, Every
from ..declared_schedules import declared
from ..errors import Continue, HardTimeLimitExceeded, Retry
from ..logging import RUN_FIELDS
from . import IN_LAMBDA

try:
    import sentry_sdk
    from sentry_sdk.crons import capture_checkin
    from sentry_sdk.scope import add_global_event_processor
except ImportError as error:
    raise ImportError(
        "This needs Sentry's SDK. Install it with: pip install 'lambda-tasks[sentry]'"
    ) from error

FLUSH_S: Final = 0.4
"""Seconds for sending what is captured: a function waits half a second for its hooks."""

WORKER_FLUSH_S: Final = 0.8
"""Seconds for the same in a worker process, whose parent may freeze or replace it afterwards.

Less than the second that hooks have after a hard timeout: then they are interrupted.
"""

MAX_BAGGAGE: Final = 2048
"""The longest baggage that travels in a call's headers, which have a limit, too."""

MAX_SLUG: Final = 50
"""The longest slug of a monitor (Sentry's documentation of crons)."""

TEXTS: Final = frozenset(
    {"breadcrumbs", "exception", "extra", "logentry", "message", "spans", "threads"}
)
"""The parts of an event that may hold what a task has said."""

MAX_OPEN: Final = 10_000
"""The most runs that wait for their end. Those that nobody has seen end are forgotten."""


def instrument() -> "Watch":
    """Have calls, attempts and schedules followed, and return what disconnects that again.

    Call it where every process loads it, after `sentry_sdk.init()`: in AppConfig.ready(). A second
    call returns the same.
    """
    if _Process.watch is not None:
        return _Process.watch
    watch = _Process.watch = Watch()
    hooks.enqueued.connect(watch.send)
    hooks.started.connect(watch.start)
    hooks.ended.connect(watch.end)
    _complete_events()
    if IN_LAMBDA:
        hooks.batch_ended.connect(watch.flush)
        hooks.ticked.connect(watch.flush)
    return watch


@dataclass(slots=True)
class _Open:
    """What is open while an attempt runs."""

    transaction: Any
    scopes: ExitStack


@dataclass(slots=True, eq=False)
class Watch:
    """What is followed in one process. Its methods are connected to hooks."""

    open: dict[tuple[UUID, int], _Open] = field(default_factory=dict)
    """The attempts that run, by invocation and attempt."""

    def disconnect(self) -> None:
        """Follow nothing more."""
        if _Process.watch is self:
            _Process.watch = None
        hooks.enqueued.disconnect(self.send)
        hooks.started.disconnect(self.start)
        hooks.ended.disconnect(self.end)
        hooks.batch_ended.disconnect(self.flush)
        hooks.ticked.disconnect(self.flush)

    def send(self, call: hooks.Enqueued) -> None:
        """Put a call into the current trace, which travels in its headers."""
        with ExitStack() as scopes:
            if SCHEDULE_HEADER in call.headers:
                # Else all runs of all schedules would share the trace of the process that ticks.
                scope = scopes.enter_context(sentry_sdk.isolation_scope())
                scope.set_new_propagation_context()
            if not _is_submitted():
                span = sentry_sdk.start_span(op="queue.publish", name=call.task_name)
                scopes.enter_context(span)
                span.set_data("messaging.message.id", str(call.invocation_id))
                span.set_data("messaging.destination.name", call.queue)
            if traceparent := sentry_sdk.get_traceparent():
                call.headers["sentry-trace"] = traceparent
            if (baggage := sentry_sdk.get_baggage()) and len(baggage) <= MAX_BAGGAGE:
                call.headers["baggage"] = baggage

    def start(self, run: hooks.Started) -> Awaitable[None] | None:
        """Open a scope and a transaction for an attempt; the check-in of a schedule remains."""
        scopes = ExitStack()
        scope = scopes.enter_context(sentry_sdk.isolation_scope())
        for name, value in _tags_of(run).items():
            scope.set_tag(name, value)
        continued = sentry_sdk.continue_trace(
            _carried(run), op="queue.process", name=run.task_name, source="task"
        )
        transaction = scopes.enter_context(sentry_sdk.start_transaction(continued))
        for name, value in _data_of(run).items():
            transaction.set_data(name, value)
        self.open[run.invocation_id, run.attempt] = _Open(transaction, scopes)
        if len(self.open) > MAX_OPEN:
            self.open.pop(next(iter(self.open)), None)
        return _check_in(run, "in_progress")

    def end(self, run: hooks.Ended) -> Awaitable[None] | None:
        """End the transaction and the scope of an attempt; the check-in of a schedule remains."""
        opened = self.open.pop((run.invocation_id, run.attempt), None)
        if opened is not None:
            opened.transaction.set_status(_status_of(run))
            # Where the attempt could not end by itself, its scope went with its context.
            opened.scopes.close()
        check_in = None
        if run.outcome in ("succeeded", "failed"):
            check_in = _check_in(run, "ok" if run.outcome == "succeeded" else "error")
        if not _is_sent_at_once(run) or multiprocessing.parent_process() is None:
            return check_in
        if check_in is not None:
            return _flush_after(check_in)
        sentry_sdk.flush(WORKER_FLUSH_S)
        return None

    def flush(self, _: object = None) -> None:
        """Send what is captured, before a function freezes."""
        sentry_sdk.flush(FLUSH_S)


class _Process:
    """What is followed in this process."""

    watch: Watch | None = None


@cache
def _complete_events() -> None:
    """Have every event completed, once for a process: Sentry forgets no processor.

    A scope is no place for it: one that has more than twenty processors forgets them all.
    """
    add_global_event_processor(_complete)


def _complete(event: Any, hint: Mapping[str, Any]) -> Any:
    """Add to an event what is known of its run, and redact what is secret."""
    if _Process.watch is None:
        return event
    return _redact(_tag(event, hint))


def _is_sent_at_once(run: hooks.Ended) -> bool:
    """Return whether what a run has captured has to leave a worker process before the next one.

    A function freezes, a process whose task was cut off is replaced, and a worker that ends kills
    its processes: an error or a check-in must not be lost with them.
    """
    was_cut_off = isinstance(run.error, HardTimeLimitExceeded)
    return IN_LAMBDA or was_cut_off or run.outcome == "failed" or SCHEDULE_HEADER in run.headers


def _is_submitted() -> bool:
    """Return whether Sentry follows this call already, as it does with Django's own tasks."""
    span: Any = sentry_sdk.get_current_span()
    return str(getattr(span, "op", None)).startswith("queue.submit")


def _carried(run: hooks.Started) -> dict[str, str]:
    return {
        name: value
        for name in ("sentry-trace", "baggage")
        if isinstance(value := run.headers.get(name), str)
    }


def _tags_of(run: hooks.Started) -> dict[str, str]:
    tags = {
        "invocation_id": run.invocation_id,
        "root_id": run.root_id,
        "task_name": run.task_name,
        "attempt": run.attempt,
        "queue": run.queue,
        "workflow": run.workflow_id,
        "step": run.step,
        "schedule": run.headers.get(SCHEDULE_HEADER),
    }
    return {name: str(value) for name, value in tags.items() if value is not None}


def _data_of(run: hooks.Started) -> dict[str, Any]:
    data: dict[str, Any] = {
        "messaging.message.id": str(run.invocation_id),
        "messaging.destination.name": run.queue,
        "messaging.message.retry.count": run.n_retries,
    }
    if run.started_at is not None and run.enqueued_at is not None:
        latency = run.started_at - run.enqueued_at
        data["messaging.message.receive.latency"] = max(latency / timedelta(milliseconds=1), 0.0)
    return data


def _status_of(run: hooks.Ended) -> str:
    """Return the status of a transaction; Retry and Continue are how a task goes on."""
    if run.outcome == "lost":
        return "aborted"
    is_error = run.outcome in ("failed", "retried") and not isinstance(run.error, Retry | Continue)
    return "internal_error" if is_error else "ok"


def _tag(event: Any, hint: Mapping[str, Any]) -> Any:
    """Tag an event of a log line that names a run, as of one whose worker process is gone."""
    record = hint.get("log_record")
    if getattr(record, "root_id", None):
        tags = event.setdefault("tags", {})
        for name in RUN_FIELDS:
            if (value := getattr(record, name, None)) not in (None, ""):
                tags.setdefault(name, str(value))
        event.setdefault("transaction", tags.get("task_name"))
    return event


def _redact(event: Any) -> Any:
    """Redact the secret arguments of the run that an event is of, as in its log lines."""
    run = run_of_this_code()
    if run is not None and run.secrets:
        event |= {name: redact_value(event[name], run.secrets) for name in TEXTS & event.keys()}
    return event


def _check_in(run: hooks.Started, status: str) -> Awaitable[None] | None:
    """Return what is to be awaited where a schedule's run begins or ends; None for other calls."""
    schedule = run.headers.get(SCHEDULE_HEADER)
    return None if schedule is None else _acheck_in(schedule, run.root_id, status)


async def _acheck_in(schedule: str, root_id: UUID, status: str) -> None:
    """Tell Sentry's monitor of a schedule about its run; the first time makes the monitor."""
    # On a thread: what has not been imported yet is read from files.
    config = await sync_to_async(_monitor_of, thread_sensitive=False)(schedule)
    capture_checkin(
        monitor_slug=slugify(schedule)[:MAX_SLUG],
        check_in_id=root_id.hex,  # one for all attempts and retries
        status=status,
        monitor_config=config,
    )


async def _flush_after(check_in: Awaitable[None]) -> None:
    """Send a check-in with all else, in a worker process: its loop has nothing else to do."""
    await check_in
    sentry_sdk.flush(WORKER_FLUSH_S)


def _monitor_of(schedule: str) -> Any:
    """Return the definition of a monitor; None for what does not repeat, or is gone."""
    found = declared().get(schedule)
    match None if found is None else found.schedule.rule:
        case Cron(expression, timezone):
            return {
                "schedule": {"type": "crontab", "value": expression},
                "timezone": timezone,
            }
        case Every(interval) if interval >= timedelta(minutes=1):
            minutes = round(interval / timedelta(minutes=1))
            return {"schedule": {"type": "interval", "value": minutes, "unit": "minute"}}
    return None
