"""The parent's side of the worker processes: started once, reused, replaced when they die.

It uses only processes, pipes and sockets. Lambda has no /dev/shm, so multiprocessing's semaphores,
queues and pools don't work there.

The pool sends runs by one socket, from which the idle processes take them. A run that was sent has
not begun until a process says so: until then it may be withdrawn, and the death of a process does
not hit it.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from ..errors import HardTimeLimitExceeded, LambdaTasksError
from ..threads import NoThread, in_reserved_thread
from . import fork_server
from .alarm import HARD_MESSAGE
from .process_slot import SentRun, Slot
from .process_start import Main, ProcessNotStarted, ProcessStart, StartedProcess
from .run import AttemptEnd, Run
from .run_socket import RunSocket, pack
from .worker_pipe import Told
from .worker_process import Reply

logger = logging.getLogger("lambda_tasks")

N_AHEAD: Final = 8
"""Runs for each process that may be sent while it is busy: it takes the next one without a pause.

With none, both sides wait for each other most of the time.
"""

INTERRUPT_EVERY_S: Final = 0.5
"""Seconds between interruptions of a start: the first may come before there is a process."""

TAKE_LIMIT_S: Final = 30.0
"""Seconds for an idle process to take a run. A process that takes longer hangs, and is replaced."""

TAKEN_GRACE_S: Final = 1.0
"""Seconds from a process's death until a run that nobody has begun is given up.

Most likely the dead process has taken it, and had no time to say so. If another one has, it says so
within a moment.
"""


class ProcessPool:
    """Up to `count` worker processes, each started when it is first needed."""

    def __init__(self, count: int, main: Main) -> None:
        self._main = main
        self._socket: RunSocket | None = None
        self._numbers = itertools.count(1)
        self._slots = [Slot() for _ in range(count)]
        self._n_ready = 0
        """The processes that are ready."""
        self._n_open = 0
        """The runs that have a place in a process, or ahead of one."""
        self._dying: set[SentRun] = set()
        """The open runs whose process ends: they need no other one."""
        self._waiting: deque[_Place] = deque()
        """The runs that wait for a place."""
        self._sent: dict[int, SentRun] = {}
        """The runs that were sent and have not begun, in their order."""
        self._starts: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._take_timer: asyncio.TimerHandle | None = None
        self._is_closing = False

    @property
    def count(self) -> int:
        """The largest number of processes."""
        return len(self._slots)

    async def run(
        self,
        make_run: Callable[[], Awaitable[Run]],
        *,
        on_begin: Callable[[], None] | None = None,
        may_be_ahead: bool = False,
    ) -> AttemptEnd:
        """Run a task in the next idle process, and return the end of the attempt.

        `make_run` is called once a process is idle, and `on_begin` when that has begun the run: the
        task's time starts then. With `may_be_ahead`, the run may be made and sent while all
        processes are busy. Raises the errors of `make_run`, and:

        - HardTimeLimitExceeded if the process had to be killed,
        - WorkerProcessDied if the process ended by itself,
        - LambdaTasksError if the state of the record is unknown,
        - ProcessNotStarted if no process has begun the task.
        """
        try:
            await self._find_place(may_be_ahead)
            try:
                return await self._answer_to(await make_run(), on_begin)
            finally:
                self._n_open -= 1
                self._grant_places()
                self._start_if_needed()
        except ProcessNotStarted as error:
            logger.exception("%s The task goes back to its queue.", error)
            raise

    def prepare(self) -> None:
        """Start the fork server, which loads the project by itself."""
        fork_server.prepare()

    def pids(self) -> list[int]:
        """Return the ids of the processes."""
        processes = [slot.process for slot in self._slots if slot.process is not None]
        return [process.pid for process in processes if process.pid is not None]

    async def aclose(self) -> None:
        """Kill all processes, also those that are starting. The database rolls back their runs."""
        self._is_closing = True
        try:
            await self._end_all()
            self._give_up(list(self._sent.values()))
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        finally:
            self._is_closing = False

    async def _end_all(self) -> None:
        for place in self._waiting:
            place.refuse(ProcessNotStarted("The worker processes end."))
        for slot in self._slots:
            if slot.process is not None:
                self._drop(slot, LambdaTasksError("The worker processes end."))
        while self._starts:
            for slot in self._slots:
                slot.give_up_start()
            await asyncio.wait(self._starts, timeout=INTERRUPT_EVERY_S)
        if self._ends:
            await asyncio.wait(self._ends)

    # Places

    async def _find_place(self, may_be_ahead: bool) -> None:
        """Wait until a process is idle, or until there is a place ahead of the busy ones."""
        if not self._waiting and self._has_place(may_be_ahead):
            self._n_open += 1
            self._start_if_needed()
            return
        place = _Place(may_be_ahead, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        self._start_if_needed()
        try:
            await place.granted
        except asyncio.CancelledError:
            if place.granted.done() and not place.granted.cancelled():
                self._n_open -= 1
                self._grant_places()
            raise

    def _has_place(self, may_be_ahead: bool) -> bool:
        return self._n_open < self._n_ready * (1 + N_AHEAD if may_be_ahead else 1)

    def _grant_places(self) -> None:
        while self._waiting and self._has_place(self._waiting[0].may_be_ahead):
            place = self._waiting.popleft()
            if not place.granted.done():
                self._n_open += 1
                place.granted.set_result(None)

    # Starts and ends of processes

    def _start_if_needed(self) -> None:
        """Start as many processes as there are runs, as long as there are slots for them."""
        wanted = self._n_open - len(self._dying) + len(self._waiting)
        if wanted <= self._n_ready or self._n_ready == len(self._slots):
            return
        n_started = self._n_ready + sum(slot.is_starting for slot in self._slots)
        for slot in self._slots:
            if n_started >= wanted or self._is_closing:
                return
            if slot.process is None and not slot.is_starting:
                slot.is_starting = True
                start = asyncio.get_running_loop().create_task(self._start(slot))
                self._starts.add(start)
                start.add_done_callback(self._starts.discard)
                n_started += 1

    async def _start(self, slot: Slot) -> None:
        refusal: ProcessNotStarted | None = None
        try:
            if self._socket is None:
                self._socket = RunSocket()
            slot.starting = ProcessStart(self._main, self._socket.workers_end)
            process = await in_reserved_thread(slot.starting.run)
        except ProcessNotStarted as error:
            refusal = error
        except (OSError, NoThread) as error:  # for example, no file descriptor is free
            refusal = ProcessNotStarted(f"There are no worker processes ({error!r}).")
        else:
            self._n_ready += 1
            slot.watch(process, hear=self._hear, see_end=self._see_end)
        finally:
            slot.is_starting, slot.starting = False, None
        if refusal is not None:
            self._refuse_one(refusal)
        elif self._is_closing:
            self._drop(slot, LambdaTasksError("The worker processes end."))
        self._grant_places()
        self._start_if_needed()

    def _refuse_one(self, error: ProcessNotStarted) -> None:
        """Refuse the run that waits longest: its process could not be started."""
        while self._waiting:
            if self._waiting.popleft().refuse(error):
                return
        if not self._n_ready:
            self._give_up(list(self._sent.values())[:1], error)

    def _drop(self, slot: Slot, answer: Reply | BaseException | None) -> None:
        """End a slot's process, and then its run with this answer; None for a process that died."""
        process, current = slot.unwatch()
        self._n_ready -= 1
        if current is not None and not current.ended.done():
            self._dying.add(current)
        if answer is not None:
            process.kill()
        # It may have taken a run and not said so.
        if missing := self._send_again():
            loop = asyncio.get_running_loop()
            loop.call_later(TAKEN_GRACE_S, self._give_up, missing)
        end = asyncio.get_running_loop().create_task(self._end(process, current, answer))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        self._start_if_needed()

    async def _end(
        self,
        process: StartedProcess,
        current: SentRun | None,
        answer: Reply | BaseException | None,
    ) -> None:
        if answer is None:
            answer = await in_reserved_thread(process.death_error)
        process.kill()
        await in_reserved_thread(process.end)
        if current is not None:
            current.end(answer)

    # Runs

    async def _answer_to(self, run: Run, on_begin: Callable[[], None] | None) -> AttemptEnd:
        number, loop = next(self._numbers), asyncio.get_running_loop()
        packet = await pack(number, run)
        sent = SentRun(packet, run.hard_s, on_begin, loop.create_future())
        self._sent[number] = sent
        self._send_unsent()
        if self._take_timer is None:
            self._take_timer = loop.call_later(TAKE_LIMIT_S, self._replace_hanging)
        try:
            return await sent.ended
        except asyncio.CancelledError:
            self._withdraw(sent)
            raise
        finally:
            self._dying.discard(sent)
            packet.close()

    def _send_unsent(self) -> None:
        """Send the runs that are not in the socket, until it is full."""
        if self._socket is None:
            return
        for sent in self._sent.values():
            if not sent.is_in_socket:
                sent.is_in_socket = self._socket.send(sent.packet)
                if not sent.is_in_socket:
                    return

    def _send_again(self) -> list[SentRun]:
        """Send again what no process has taken; return the runs that one has taken."""
        if not self._sent or self._socket is None:
            return []
        for number in self._socket.take_back():
            if (sent := self._sent.get(number)) is not None:
                sent.is_in_socket = False
        taken = [sent for sent in self._sent.values() if sent.is_in_socket]
        self._send_unsent()
        return taken

    def _withdraw(self, sent: SentRun) -> None:
        """Take a run back, or kill the process that has begun it."""
        if self._sent.pop(sent.packet.number, None) is not None:
            # If a process has just taken it, that process is killed when it says so.
            self._send_again()
        for slot in self._slots:
            if slot.current is sent:
                self._drop(slot, LambdaTasksError("The run was cancelled."))

    def _give_up(self, unbegun: list[SentRun], error: ProcessNotStarted | None = None) -> None:
        """Give up the runs that no process has begun."""
        for sent in unbegun:
            if self._sent.pop(sent.packet.number, None) is not None:
                sent.end(error or ProcessNotStarted("No worker process has begun the task."))

    def _hear(self, slot: Slot) -> None:
        assert slot.listener is not None
        try:
            for told in slot.listener.hear():
                self._take_in(slot, told)
        except (EOFError, OSError):
            if slot.process is not None:
                self._drop(slot, None)
        else:
            slot.limit_answer(self._drop)

    def _take_in(self, slot: Slot, told: Told) -> None:
        if told.ended and slot.current is not None:
            if isinstance(told.answer, AttemptEnd) and told.answer.replaces_process:
                self._drop(slot, told.answer)
                return
            slot.current.end(told.answer)
            slot.current = None
        if told.begun and slot.process is not None:
            sent = self._sent.pop(told.begun, None)
            if sent is None:  # it was withdrawn or given up meanwhile
                self._drop(slot, LambdaTasksError("The run was withdrawn."))
            else:
                slot.begin(sent, self._kill_late)
                self._send_unsent()

    def _see_end(self, slot: Slot) -> None:
        """See that a process has ended, or its fork server."""
        process = slot.process
        assert process is not None
        if not process.is_gone():
            asyncio.get_running_loop().remove_reader(process.sentinel)
            return
        # A process that the task started may hold the pipe open, so that the pipe shows no end.
        while slot.process is process and process.pipe.poll(0):
            self._hear(slot)
        if slot.process is process:
            self._drop(slot, None)

    def _kill_late(self, slot: Slot) -> None:
        """Kill a process whose task ignores its hard timeout."""
        if (current := slot.current) is None:
            return
        if time.monotonic() < current.kill_at:
            slot.limit_run(self._kill_late)
        else:
            error = HardTimeLimitExceeded(HARD_MESSAGE.format(current.hard_s))
            self._drop(slot, error)

    def _replace_hanging(self) -> None:
        """Replace idle processes that have not taken a run for TAKE_LIMIT_S."""
        self._take_timer = None
        if not self._sent:
            return
        oldest = next(iter(self._sent.values()))
        if time.monotonic() - oldest.sent_at >= TAKE_LIMIT_S:
            for slot in self._slots:
                if slot.process is not None and slot.current is None:
                    self._drop(slot, LambdaTasksError("A worker process takes no runs."))
        loop = asyncio.get_running_loop()
        self._take_timer = loop.call_later(TAKE_LIMIT_S, self._replace_hanging)


@dataclass(slots=True, eq=False)
class _Place:
    """A run's wait for a place."""

    may_be_ahead: bool
    granted: "asyncio.Future[None]"

    def refuse(self, error: ProcessNotStarted) -> bool:
        """End the wait with an error; return whether somebody waits."""
        if self.granted.done():
            return False
        self.granted.set_exception(error)
        return True
