"""Calls hooks beside the engine, on a thread of their own, behind a queue that is bounded.

No hook can hold up the engine. One that hangs holds up only itself: it is skipped until it returns,
and a new thread calls the others.
"""

import atexit
import logging
import os
import queue
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from django.db import connections

from .calling import HOOK_LIMIT_S, Reporting, call_receiver
from .hook import Hook, Receiver, name_of

logger = logging.getLogger("lambda_tasks")

E = TypeVar("E")

MAX_WAITING: Final = 10_000
"""The most calls that wait. More are dropped, and the log says how many."""

REPORT_DROPPED_EVERY_S: Final = 60.0
"""Seconds between two log lines about calls that were dropped for one reason."""

EXIT_FLUSH_S: Final = 2.0
"""Seconds for waiting calls at the end of the process."""

FLUSH_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class _Call:
    """A function to call with an event."""

    hook: Hook[Any]
    receiver: Receiver[Any]
    event: object


@dataclass(slots=True, eq=False)
class _Caller:
    """A thread that makes calls, until another replaces it."""

    current: _Call | None = None
    since: float = 0.0
    """The time of the current call's start, in `time.monotonic()` seconds."""

    @property
    def is_stuck(self) -> bool:
        return self.current is not None and time.monotonic() - self.since > HOOK_LIMIT_S


@dataclass(slots=True, eq=False)
class _Dropped:
    """The calls that were dropped for one reason."""

    n_calls: int = 0
    reported_at: float = float("-inf")


@dataclass(slots=True, eq=False)
class _Beside:
    """The waiting calls of one process, and the thread that makes them."""

    waiting: "queue.Queue[_Call]" = field(default_factory=lambda: queue.Queue(MAX_WAITING))
    lock: threading.Lock = field(default_factory=threading.Lock)
    caller: _Caller | None = None
    stuck: dict[_Caller, Receiver[Any]] = field(default_factory=dict)
    """The functions that hang, each on a thread of its own."""
    dropped: defaultdict[str, _Dropped] = field(default_factory=lambda: defaultdict(_Dropped))
    """The dropped calls, by their reason."""

    def put(self, call: _Call) -> None:
        try:
            self.waiting.put_nowait(call)
        except queue.Full:
            self._drop("hooks are too slow")
        self.keep_calling()

    def keep_calling(self) -> None:
        """Start a thread if there is none, or if it is stuck."""
        caller = self.caller
        if caller is not None and not caller.is_stuck:
            return
        with self.lock:
            if self.caller is not caller:
                return
            if caller is not None and (call := caller.current) is not None:
                self.stuck[caller] = call.receiver
                logger.error(
                    "%s, connected to hooks.%s, has not returned for %g s (%s). It is not called "
                    "again until it returns.",
                    name_of(call.receiver), call.hook.name, HOOK_LIMIT_S, call.event,
                )  # fmt: skip
            self.caller = _Caller()
            thread = threading.Thread(
                target=self._serve, args=(self.caller,), name="lambda_tasks-hooks", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # too many threads, or the end of the process in Python 3.12
                self.caller = None  # what waits is called when a thread can be started

    def is_idle(self) -> bool:
        return self.waiting.unfinished_tasks <= len(self.stuck)

    def _serve(self, caller: _Caller) -> None:
        while self.caller is caller:
            call = self.waiting.get()
            caller.since = time.monotonic()
            caller.current = call
            with Reporting(call.hook, call.receiver, call.event):
                self._make(call)
            if self.waiting.empty():
                connections.close_all()  # those that hooks have opened on this thread
            with self.lock:
                caller.current = None
                self.stuck.pop(caller, None)
            self.waiting.task_done()

    def _make(self, call: _Call) -> None:
        if call.receiver in list(self.stuck.values()):
            self._drop(f"{name_of(call.receiver)} has not returned")
        else:
            call_receiver(call.receiver, call.event)

    def _drop(self, reason: str) -> None:
        dropped, now = self.dropped[reason], time.monotonic()
        dropped.n_calls += 1
        if now - dropped.reported_at > REPORT_DROPPED_EVERY_S:
            dropped.reported_at = now
            logger.error("%d calls of hooks were dropped: %s.", dropped.n_calls, reason)


class _Process:
    """The calls of this process. A forked child starts with none."""

    beside = _Beside()


def call_beside(hook: Hook[E], event: E) -> None:
    """Have the hook's functions called with an event, on the thread of hooks. Returns at once."""
    for receiver in hook.receivers:
        _Process.beside.put(_Call(hook, receiver, event))


def start_calling() -> None:
    """Start the thread that makes calls, also for those at the end of the process."""
    _Process.beside.keep_calling()


def flush(limit_s: float) -> bool:
    """Wait up to `limit_s` seconds until no call waits; return whether none does."""
    beside, until = _Process.beside, time.monotonic() + limit_s
    while not beside.is_idle():
        if time.monotonic() > until:
            return False
        beside.keep_calling()
        time.sleep(FLUSH_POLL_S)
    return True


def _reset_after_fork() -> None:
    _Process.beside = _Beside()


atexit.register(flush, EXIT_FLUSH_S)
os.register_at_fork(after_in_child=_reset_after_fork)
