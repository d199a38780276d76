"""A slot for one worker process, and the run that the process has begun, in the parent.

All of it is used on the parent's event loop.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..errors import LambdaTasksError
from .process_start import ProcessStart, StartedProcess
from .run import AttemptEnd
from .run_socket import Packet
from .worker_pipe import Listener
from .worker_process import Reply

KILL_GRACE_S: Final = 2.0
"""Seconds that a task may ignore its hard timeout before its process is killed."""

ANSWER_LIMIT_S: Final = 30.0
"""Seconds for the rest of an answer to arrive."""


@dataclass(slots=True, eq=False)
class SentRun:
    """A run that was sent, or is to be sent."""

    packet: Packet
    hard_s: float
    on_begin: Callable[[], None] | None
    ended: "asyncio.Future[AttemptEnd]"
    is_in_socket: bool = False
    sent_at: float = 0.0
    kill_at: float = 0.0

    def __post_init__(self) -> None:
        self.sent_at = time.monotonic()

    def begin(self) -> None:
        """Note that a process has begun the run."""
        self.kill_at = time.monotonic() + self.hard_s + KILL_GRACE_S
        if self.on_begin is not None:
            self.on_begin()

    def end(self, answer: Reply | BaseException) -> None:
        """End the run with an answer, or an error to raise."""
        if self.ended.done():
            return
        if isinstance(answer, BaseException):
            self.ended.set_exception(answer)
        else:
            self.ended.set_result(answer)


class Slot:
    """A slot for one process, as the parent's event loop sees it."""

    def __init__(self) -> None:
        self.process: StartedProcess | None = None
        self.is_starting = False
        self.starting: ProcessStart | None = None
        self.listener: Listener | None = None
        self.current: SentRun | None = None
        """The run that the process has begun."""
        self._run_timer: asyncio.TimerHandle | None = None
        self._kill_at = 0.0
        self._answer_timer: asyncio.TimerHandle | None = None

    def watch(
        self,
        process: StartedProcess,
        *,
        hear: "Callable[[Slot], None]",
        see_end: "Callable[[Slot], None]",
    ) -> None:
        """Watch a process that was started."""
        self.process, self.listener = process, Listener(process.pipe)
        loop = asyncio.get_running_loop()
        loop.add_reader(process.pipe.fileno(), hear, self)
        loop.add_reader(process.sentinel, see_end, self)

    def unwatch(self) -> tuple[StartedProcess, SentRun | None]:
        """Leave the slot to another process; return the process and its run."""
        process, current = self.process, self.current
        assert process is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(process.pipe.fileno())
        loop.remove_reader(process.sentinel)
        for timer in (self._run_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        self._run_timer = self._answer_timer = None
        self.process = self.listener = self.current = None
        return process, current

    def give_up_start(self) -> None:
        """Give up the start of a process, without waiting."""
        if self.starting is not None:
            self.starting.give_up()

    def begin(self, sent: SentRun, kill_late: "Callable[[Slot], None]") -> None:
        """Note that the process has begun a run."""
        self.current = sent
        sent.begin()
        # One timer for the runs of a process: a timer for each would cost more than a short run.
        if self._run_timer is None or self._kill_at > sent.kill_at:
            self.limit_run(kill_late)

    def limit_run(self, kill_late: "Callable[[Slot], None]") -> None:
        """Set the timer for the limit of the current run."""
        assert self.current is not None
        if self._run_timer is not None:
            self._run_timer.cancel()
        self._kill_at = self.current.kill_at
        seconds = self._kill_at - time.monotonic()
        self._run_timer = asyncio.get_running_loop().call_later(seconds, self._ring, kill_late)

    def _ring(self, kill_late: "Callable[[Slot], None]") -> None:
        self._run_timer = None
        kill_late(self)

    def limit_answer(self, drop: "Callable[[Slot, Reply | BaseException | None], None]") -> None:
        """Set the timer for the rest of an answer, or stop it if there is no rest."""
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
        if self.listener is not None and self.listener.is_within_message:
            error = LambdaTasksError("A worker process did not send the whole of its answer.")
            loop = asyncio.get_running_loop()
            self._answer_timer = loop.call_later(ANSWER_LIMIT_S, drop, self, error)
