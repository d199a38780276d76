"""What happens in each step of a durable function, on the thread of its connection.

The two forms of the context share it. A step that was done before returns what is kept of it; a new
one is done in a transaction of its own, or ends the run.
"""

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn
from uuid import UUID

from asgiref.sync import iscoroutinefunction

from ..context import TaskContext
from ..core.durable import (
    FOREVER,
    Checkpoint,
    Kind,
    check_name,
    due_of,
    error_from_json,
    error_to_json,
    reference_to,
    value_from_json,
    value_to_json,
)
from ..core.hints import resolve_hint
from ..database_errors import is_conflict
from ..errors import SoftTimeLimitExceeded, Suspended
from ..execution.journal import Suspension
from ..logging import attributes_of
from ..workflows import Step
from .direct import DirectJournal

logger = logging.getLogger("lambda_tasks")

MAX_CONFLICTS: Final = 3
"""The most repetitions of a step that meets a conflict in the database."""

LONG_OUTSIDE_S: Final = 5.0
"""Seconds that a function may take outside of its steps before the log tells it."""

_active: ContextVar["tuple[Steps, str] | None"] = ContextVar(
    "lambda_tasks_active_step", default=None
)
"""The step that the current code belongs to, and whose it is."""

_told: set[str] = set()
"""The tasks that have taken long outside of their steps."""


class Steps:
    """The steps of one run of a durable function."""

    def __init__(self, context: TaskContext) -> None:
        self.context = context
        self.journal: Any = context.journal or DirectJournal()
        self.is_loaded = False
        self.n_new = 0
        """The steps that this run has done itself."""
        self._found: dict[str, Checkpoint] = {}
        self._left: set[str] = set()
        """The steps that have begun in earlier runs and that this one has not reached yet."""
        self._used: set[str] = set()
        self._number = 0
        self._caught: Checkpoint | None = None
        """A step that has failed. It is written once the function goes on."""
        self._began = 0.0
        """When the step began that runs now, or that ran last, by time.monotonic()."""
        self._cancelled: str | None = None
        """A step that the function's own code has cancelled."""
        self._is_replayed = False
        """Whether the function was replayed up to its last step, to learn what must be undone."""
        self._full_s = context.remaining()
        self._outside_since = time.monotonic()
        self._last = "its start"

    def load(self) -> None:
        """Read what is kept of earlier runs."""
        self._found = {each.name: each for each in self.journal.read()}
        # Code before a step that waits has run, too.
        self._left = {each.name for each in self._found.values() if each.kind != Kind.UNDO}
        self._number = max([self._number, *(each.number for each in self._found.values())])
        self.is_loaded = True
        self.journal.is_replaying = bool(self._left)

    def enter(self, name: str, kind: Kind) -> Checkpoint | None:
        """Begin a step; return what is kept of it. `is_over` says whether it is done already.

        Raises ValueError for a name that can't be used, and RuntimeError within another step.
        """
        self._check(name, kind)
        self._used.add(name)
        self._tell_of_long_time(name)
        self._last = f"the {kind} {name!r}"
        found = self._found.get(name)
        if found is not None and found.is_over:
            self._left.discard(name)
            self.journal.is_replaying = bool(self._left)
            self.leave()
            return found
        if self.journal.is_undo:
            self._is_replayed = True
            raise Suspended  # Only what was done is done again, to learn what must be undone.
        self.journal.is_replaying = False
        if self._caught is not None:
            self.journal.pending.append(self._caught)
            self._caught = None
        return found

    def refuse_nested(self, name: str) -> None:
        """Raise RuntimeError within a step."""
        active = _active.get()
        if active is not None and active[0] is self:  # not that of a function that runs eagerly
            raise RuntimeError(
                f"{self.context.task_name}: {name!r} begins within the step {active[1]!r}, which "
                "is one transaction. Call it after that step, or make it a part of the step's "
                "function."
            )

    def _check(self, name: str, kind: Kind) -> None:
        check_name(name)
        self.refuse_nested(name)
        if self.journal.suspension is not None or self._is_replayed:
            raise Suspended  # by code that has caught it
        if self.journal.interruption is not None:
            raise self.journal.interruption
        if self._cancelled is not None:
            raise RuntimeError(
                f"{self.context.task_name}: the step {self._cancelled!r} was cancelled from "
                "outside of it, as asyncio.timeout() does, so the next run can't know how it has "
                f"ended, and {name!r} can't follow it. Put the timeout into the step's function."
            )
        if name in self._used:
            raise ValueError(
                f"{self.context.task_name} has used the name {name!r} before in this run. Each "
                'step has its own, as it is found by it: in a loop, f"month {n}".'
            )
        found = self._found.get(name)
        if found is not None and found.kind != kind:
            raise ValueError(
                f"{self.context.task_name}: {name!r} was a {found.kind} when it began, and is a "
                f"{kind} now. Give the new one another name."
            )

    def _tell_of_long_time(self, name: str) -> None:
        passed_s, task_name = time.monotonic() - self._outside_since, self.context.task_name
        if passed_s < LONG_OUTSIDE_S or task_name in _told:
            return
        _told.add(task_name)
        logger.warning(
            "%s took %.0f s between %s and %r, outside of its steps, and does so again in each "
            "run. Put what takes long into a step.",
            task_name, passed_s, self._last, name,
        )  # fmt: skip

    def leave(self) -> None:
        """End a step: what follows is outside of any."""
        self._outside_since = time.monotonic()

    def done(
        self, name: str, kind: Kind, found: Checkpoint | None, value: Any, error: Any = None
    ) -> Checkpoint:
        """Return what is kept of a step that is done."""
        if found is not None:
            return replace(found, value=value, error=error, is_over=True)
        return Checkpoint(name=name, kind=kind, number=self._next(), value=value, error=error)

    def _next(self) -> int:
        self._number += 1
        return self._number

    def waiting(
        self, name: str, kind: Kind, found: Checkpoint | None, value: Any
    ) -> list[Checkpoint]:
        """Return what is kept of a step that begins to wait; nothing if that is kept already."""
        if found is not None:
            return []
        kept = Checkpoint(name=name, kind=kind, number=self._next(), value=value, is_over=False)
        return [kept]

    def suspend(self, suspension: Suspension) -> NoReturn:
        """End the run; another one goes on."""
        self.journal.suspension = suspension
        raise Suspended

    # step()

    def may_begin(self, name: str) -> None:
        """Check that there is time for a new step, and write what must be known before it.

        A run that has done something, and half of its time is over, ends here. So each step may
        take half of the time limit at least, and all of it once it begins a run.
        """
        if self.n_new and self.context.remaining() < self._full_s / 2:
            self.suspend(Suspension(name))
        if any(each.kind == Kind.UNDO for each in self.journal.pending):
            self.journal.flush()

    @contextmanager
    def active(self, name: str) -> Iterator[None]:
        """Refuse steps within this one in the body."""
        token = _active.set((self, name))
        self._began = time.monotonic()
        try:
            yield
        finally:
            _active.reset(token)
            self.leave()

    def run_step(self, name: str, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call the function of a step, a `def`, and commit. Returns its result."""
        for n_tries in range(MAX_CONFLICTS + 1):
            try:
                self.journal.begin()
                return self.commit(name, fn, refuse_awaitable(fn, fn(*args, **kwargs)))
            except Exception as error:
                self.journal.roll_back(error)
                if not self.repeats(error, n_tries):
                    self.failed(name, error)
                    raise
        raise AssertionError("unreachable")

    def commit(self, name: str, fn: Callable[..., Any], result: object) -> Any:
        """Commit a step with its result, and return it as its annotation has it."""
        if self._cancelled == name:  # while it ran on its thread
            raise RuntimeError(f"The step {name!r} was cancelled.")
        what = f"the result of the step {name!r} of {self.context.task_name}"
        value = value_to_json(result, what=what)
        typed = value_from_json(value, hint_of(fn), what=what)
        done = self.done(name, Kind.STEP, None, value)
        self.journal.commit(replace(done, ran=(self._began, time.monotonic())))
        self.n_new += 1
        return typed

    def repeats(self, error: BaseException, n_tries: int) -> bool:
        """Return whether a step is repeated at once after an error, which has undone it."""
        return n_tries < MAX_CONFLICTS and is_conflict(error)

    def failed(self, name: str, error: Exception) -> None:
        """Note that a step has failed. One that had less than a whole run goes on in the next."""
        if isinstance(error, SoftTimeLimitExceeded) and self.n_new:
            self.suspend(Suspension(name))
        if self.journal.is_outcome(error):
            self._caught = Checkpoint(
                name=name,
                kind=Kind.STEP,
                number=self._next(),
                error=error_to_json(error, self.context.secrets),
                ran=(self._began, time.monotonic()),
            )

    def cancelled(self, name: str) -> None:
        """Note that a step was cancelled. It does not commit, and no other follows it."""
        self._cancelled = name

    def result_of(self, kept: Checkpoint, fn: Callable[..., Any]) -> Any:
        """Return the result of a step that is done, or raise its error."""
        if kept.error is not None:
            raise error_from_json(kept.error)
        what = f"the result of the step {kept.name!r} of {self.context.task_name}"
        return value_from_json(kept.value, hint_of(fn), what=what)

    # sleep() and wait_for()

    def sleep(self, name: str, until: timedelta | datetime) -> None:
        """See WorkflowContext.sleep()."""
        now = datetime.now(UTC)
        due = due_of(until, now, what=f"the sleep {name!r} of {self.context.task_name}")
        found = self.enter(name, Kind.SLEEP)
        if self.journal.is_direct or (found is not None and found.is_over):
            return
        if found is not None:
            due = datetime.fromisoformat(found.value)
        value = due.isoformat()
        if due > now and self.journal.woke != name:
            steps = self.waiting(name, Kind.SLEEP, found, value)
            self.suspend(Suspension(name, due, steps=steps))
        self.journal.pending.append(self.done(name, Kind.SLEEP, found, value))
        self.leave()

    def wait_for(self, name: str, type: Any, timeout: timedelta | None) -> Any:
        """See WorkflowContext.wait_for()."""
        what = f"the signal {name!r} of {self.context.task_name}"
        now = datetime.now(UTC)
        due = FOREVER if timeout is None else due_of(timeout, now, what=f"the timeout of {what}")
        found = self.enter(name, Kind.WAIT)
        if found is not None and found.is_over:
            return None if found.value is None else value_from_json(found.value, type, what=what)
        self.journal.refuse_direct("wait_for")
        if found is not None:
            due = datetime.fromisoformat(found.value)
        ends = due != FOREVER and (self.journal.woke == name or due <= now)
        try:
            self.journal.begin()
            has_come, value = self.journal.receive_signal(name, ends=ends)
            fits, typed = self._read_signal(name, value, type) if has_come else (False, None)
            if not (fits or ends):
                self._park(name, type, due, found, drops=has_come)
            kept = self.done(name, Kind.WAIT, found, value if fits else None)
            self.journal.commit(kept)
        except BaseException as error:
            self.journal.roll_back(error)
            raise
        self.leave()
        return typed

    def _read_signal(self, name: str, value: Any, type: Any) -> tuple[bool, Any]:
        """Return whether a signal has the type that is waited for, and its value.

        One that came before its wait could not be refused. It must not fail the function.
        """
        try:
            return True, value_from_json(value, type, what=name)
        except TypeError:
            logger.error(
                "[%s] The signal %r of %s is no %s. It is dropped, and another one may come.",
                self.context.invocation_id, name, self.context.task_name,
                getattr(type, "__name__", type),
                extra=attributes_of(self.context),
            )  # fmt: skip
            return False, None

    def _park(
        self, name: str, type: Any, due: datetime, found: Checkpoint | None, *, drops: bool
    ) -> NoReturn:
        """End the run; a signal wakes the next one, or its timeout."""

        def write(run_id: UUID) -> bool:
            reference = reference_to(type) or ""
            waits: bool = self.journal.wait_for_signal(name, run_id, reference, drops=drops)
            return waits

        steps = self.waiting(name, Kind.WAIT, found, due.isoformat())
        self.suspend(Suspension(name, due, is_parked=True, steps=steps, write=write))

    # on_failure()

    def on_failure(
        self, name: str, fn: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]
    ) -> None:
        """See WorkflowContext.on_failure()."""
        what = f"the compensation {name!r} of {self.context.task_name}"
        self._check(name, Kind.UNDO)
        if args:
            raise TypeError(f"{what} got positional arguments. Pass each by its name.")
        reference = reference_to(fn)
        if reference is None:
            raise TypeError(
                f"{what} is {fn!r:.80}, and must be a function of a module, which is found again "
                "by its name: no lambda, partial, method or function within another."
            )
        value = value_to_json(dict(kwargs), what=f"the arguments of {what}")
        self._used.add(name)
        if name not in self._found:
            kept = Checkpoint(
                name=name,
                kind=Kind.UNDO,
                number=self._next(),
                value=value,
                function=reference,
                is_over=False,
            )
            self.journal.pending.append(kept)


def check_step_function(name: str, fn: object, *, is_async: bool) -> None:
    """Raise TypeError where a function can't be a step."""
    if isinstance(fn, Step):
        raise TypeError(
            f"The step {name!r} got {fn!r}, a call of a task. Use run() for it, or pass a function."
        )
    if not callable(fn):
        raise TypeError(f"The step {name!r} got {fn!r:.80}. Pass a function, and its arguments.")
    if not is_async and iscoroutinefunction(fn):
        raise TypeError(
            f"The step {name!r} is an `async def`, and the durable function is a `def`. Make both "
            "the same."
        )


def refuse_awaitable(fn: Callable[..., Any], result: Any) -> Any:
    """Return the result of a `def`. Raises TypeError where it would have to be awaited."""
    if not inspect.isawaitable(result):
        return result
    if inspect.iscoroutine(result):
        result.close()
    raise TypeError(f"{fn!r:.80} returns an awaitable. Pass the `async def` itself.")


def hint_of(fn: Any, name: str = "return") -> Any:
    """Return an annotation of a function; Any where it has none."""
    annotations = getattr(inspect.unwrap(fn), "__annotations__", {})
    return resolve_hint(fn, name) if name in annotations else Any
