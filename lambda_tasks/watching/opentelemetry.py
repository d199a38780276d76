"""Traces in OpenTelemetry: one from a request through its calls to the tasks, on the hooks.

`instrument()` connects them. Each call has a span `send {queue}`, whose W3C context travels in the
call's headers: so its relays, retries and further runs keep the trace. Each attempt has a span
`process {task}`, a child of the call's. Needs the extra `otel`.
"""

import multiprocessing
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured

from .. import hooks
from ..conf import current
from ..context import SCHEDULE_HEADER
from ..errors import Continue, HardTimeLimitExceeded, Retry
from ..queues.sqs import SQSQueue
from . import IN_LAMBDA
from . import conventions as names

try:
    from opentelemetry import context, trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "Traces need OpenTelemetry's API. Install it with: pip install 'lambda-tasks[otel]'"
    ) from error

FLUSH_MS: Final = 400
"""Milliseconds for the export of finished spans: a function waits half a second for its hooks."""

MAX_CHILDREN: Final = 100
"""The most calls that are made together and become children of one span. More have traces of their
own, with a link to it: traces of many thousands of spans are cut off, or can't be shown."""

MAX_OPEN: Final = 10_000
"""The most spans that wait for their end. Those of runs that nobody has seen end are forgotten."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()

_Key = tuple[UUID, int]


def instrument(
    tracer_provider: TracerProvider | None = None, *, flush_each: bool | None = None
) -> "Traces":
    """Have every call and every attempt traced, and return what disconnects that again.

    Call it where every process loads it: in AppConfig.ready(). `tracer_provider` is the global one
    by default, which may be set later. In worker processes `flush_each` exports the spans of each
    task before the next begins, which by default happens in a function only: it freezes.

    A second call returns the same. Raises ImproperlyConfigured if its arguments are others.
    """
    traces = Traces(tracer_provider, IN_LAMBDA if flush_each is None else flush_each)
    if _Process.traces is not None:
        _Process.traces.check_same(traces)
        return _Process.traces
    _Process.traces = traces
    hooks.enqueued.connect(traces.send)
    hooks.started.connect(traces.start)
    hooks.ended.connect(traces.end)
    if IN_LAMBDA:
        hooks.batch_ended.connect(traces.flush)
        hooks.ticked.connect(traces.flush)
    return traces


@dataclass(slots=True, eq=False)
class Traces:
    """The traces of one process. Its methods are connected to hooks."""

    provider: TracerProvider | None = None
    flushes_each: bool = False
    open: dict[_Key, Span] = field(default_factory=dict)
    """The spans of attempts that run, by invocation and attempt."""
    flushing: threading.Thread | None = None
    """The thread that exports, or has exported last."""

    def check_same(self, other: "Traces") -> None:
        """Raise ImproperlyConfigured if others would trace in another way."""
        if (self.provider, self.flushes_each) != (other.provider, other.flushes_each):
            raise ImproperlyConfigured(
                "lambda_tasks is traced already, with another tracer_provider or flush_each. Call "
                "instrument() once, or disconnect() on what the first call has returned before the "
                "second."
            )

    def disconnect(self) -> None:
        """Trace nothing more."""
        if _Process.traces is self:
            _Process.traces = None
        hooks.enqueued.disconnect(self.send)
        hooks.started.disconnect(self.start)
        hooks.ended.disconnect(self.end)
        hooks.batch_ended.disconnect(self.flush)
        hooks.ticked.disconnect(self.flush)

    def send(self, call: hooks.Enqueued) -> None:
        """Trace a call, and let its context travel in the headers."""
        attributes, caller = _attributes(call, "send"), trace.get_current_span().get_span_context()
        parent, links = None, []
        if not caller.is_valid:
            parent = _PROPAGATOR.extract(call.headers)
        elif call.n_together > MAX_CHILDREN:
            parent, links = Context(), [Link(caller)]
        span = self._tracer.start_span(
            f"send {call.queue}", parent, kind=SpanKind.PRODUCER, attributes=attributes, links=links
        )
        _PROPAGATOR.inject(call.headers, trace.set_span_in_context(span))
        span.end()

    def start(self, run: hooks.Started) -> None:
        """Start the span of an attempt, as the current one of its task."""
        span, around = self._start(run)
        # Nobody detaches it: the run's context variables end with the run.
        context.attach(trace.set_span_in_context(span, around))
        self.open[run.invocation_id, run.attempt] = span
        if len(self.open) > MAX_OPEN:
            self.open.pop(next(iter(self.open)), None)

    def end(self, run: hooks.Ended) -> None:
        """End the span of an attempt; make it if the process that has started it is gone."""
        span = self.open.pop((run.invocation_id, run.attempt), None)
        if span is None:
            span, _ = self._start(run, run.started_at)
        span.set_attribute(names.OUTCOME, run.outcome)
        _set_error(span, run)
        span.end()
        if self.flushes_each or isinstance(run.error, HardTimeLimitExceeded):
            self._flush_worker_process()

    def flush(self, _: object = None) -> None:
        """Export the spans that have ended, before a function freezes."""
        force_flush = getattr(self.provider or trace.get_tracer_provider(), "force_flush", None)
        is_stuck = self.flushing is not None and self.flushing.is_alive()
        if force_flush is None or is_stuck:  # only the SDK's provider exports
            return
        # On a thread: the SDK's processors wait for their exporter, whatever the limit is.
        self.flushing = threading.Thread(
            target=force_flush, args=(FLUSH_MS,), name="lambda_tasks-traces", daemon=True
        )
        self.flushing.start()
        self.flushing.join(FLUSH_MS / 1000)

    def _flush_worker_process(self) -> None:
        """Export before the parent knows the end: it may freeze then, or replace this process."""
        if multiprocessing.parent_process() is not None:
            self.flush()

    def _start(
        self, run: hooks.Started, started_at: datetime | None = None
    ) -> tuple[Span, Context]:
        attributes = _attributes(run, "process") | {
            names.CONVERSATION_ID: str(run.root_id),
            names.ATTEMPT: run.attempt,
            names.RETRIES: run.n_retries,
        }
        if (schedule := run.headers.get(SCHEDULE_HEADER)) is not None:
            attributes[names.SCHEDULE] = schedule
        if run.workflow_id is not None:
            attributes |= {names.WORKFLOW: str(run.workflow_id), names.STEP: run.step}
        around = _PROPAGATOR.extract(run.headers)
        since = None if started_at is None else int(started_at.timestamp() * 1e9)
        span = self._tracer.start_span(
            f"process {run.task_name}",
            around,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            start_time=since,
        )
        return span, around

    @property
    def _tracer(self) -> Tracer:
        return trace.get_tracer("lambda_tasks", tracer_provider=self.provider)


class _Process:
    """The traces that are connected in this process."""

    traces: Traces | None = None


def _attributes(event: hooks.Enqueued | hooks.Started, operation: str) -> dict[str, Any]:
    queues: Mapping[str, Any] = current().queues
    is_sqs = isinstance(queues.get(event.queue), SQSQueue)
    return {
        names.SYSTEM: names.AWS_SQS if is_sqs else names.OWN_SYSTEM,
        names.OPERATION_NAME: operation,
        names.OPERATION_TYPE: operation,
        names.DESTINATION: event.queue,
        names.MESSAGE_ID: str(event.invocation_id),
        names.TASK: event.task_name,
    }


def _set_error(span: Span, run: hooks.Ended) -> None:
    """Say what ended an attempt; Retry and Continue are how a task goes on, and no errors."""
    if run.outcome == "lost" and run.error is None:
        span.set_status(Status(StatusCode.ERROR, "The attempt was lost, and runs again."))
    if run.error is None or isinstance(run.error, Retry | Continue):
        return
    span.record_exception(run.error)
    if run.outcome != "succeeded":  # else the task ignores it
        error_class = type(run.error)
        span.set_attribute(names.ERROR_TYPE, f"{error_class.__module__}.{error_class.__qualname__}")
        span.set_status(Status(StatusCode.ERROR, str(run.error)))
