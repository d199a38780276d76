"""The parent's side of the worker processes: started once, reused, replaced when they die.

It uses only processes and pipes. Lambda has no /dev/shm, so multiprocessing's semaphores, queues
and pools don't work there.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from ..errors import HardTimeLimitExceeded, LambdaTasksError
from ..threads import in_reserved_thread
from . import fork_server, worker_pipe
from .alarm import HARD_MESSAGE
from .process_start import Main, ProcessNotStarted, ProcessStart, StartedProcess
from .run import AttemptEnd, Run
from .worker_process import Reply

logger = logging.getLogger("lambda_tasks")

KILL_GRACE_S: Final = 2.0
"""Seconds that a task may ignore its hard timeout before its process is killed."""

INTERRUPT_EVERY_S: Final = 0.5
"""Seconds between interruptions of a start: the first may come before there is a process."""


class ProcessPool:
    """Up to `count` worker processes, each started when it is first needed."""

    def __init__(self, count: int, main: Main) -> None:
        self._slots = [_Slot(main) for _ in range(count)]
        # Last in, first out: a warm process is reused before another is started.
        self._free: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for slot in reversed(self._slots):
            self._free.put_nowait(slot)

    @property
    def count(self) -> int:
        """The largest number of processes."""
        return len(self._slots)

    async def run(self, make_run: Callable[[], Awaitable[Run]]) -> AttemptEnd:
        """Run a task in the next free process, and return the end of the attempt.

        `make_run` is called once the process is ready: the task's time starts then. Raises the
        errors of `make_run`, and:

        - HardTimeLimitExceeded if the process had to be killed,
        - WorkerProcessDied if the process ended by itself,
        - LambdaTasksError if the state of the record is unknown,
        - ProcessNotStarted if no process could start the task.
        """
        slot = await self._free.get()
        try:
            await slot.start()
            return await slot.run(await make_run())
        except ProcessNotStarted as error:
            logger.exception("%s The task goes back to its queue.", error)
            raise
        finally:
            self._free.put_nowait(slot)

    def prepare(self) -> None:
        """Start the fork server, which loads the project by itself."""
        fork_server.prepare()

    def pids(self) -> list[int]:
        """Return the ids of the processes."""
        return [slot.pid for slot in self._slots if slot.pid is not None]

    async def aclose(self) -> None:
        """Kill all processes, also those that are starting. The database rolls back their runs."""
        for slot in self._slots:
            slot.interrupt()
        for slot in self._slots:
            await in_reserved_thread(slot.close)


class _Slot:
    """A slot for one process, which is started and replaced as needed."""

    def __init__(self, main: Main) -> None:
        self._main = main
        self._process: StartedProcess | None = None
        self._starting: ProcessStart | None = None
        self._lock = threading.Lock()
        """Held while a process starts, even if the run that needs it was cancelled meanwhile."""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process, unless it is ready. Raises ProcessNotStarted."""
        if self._process is None or not self._process.is_ready():
            await in_reserved_thread(self._start)

    async def run(self, run: Run) -> AttemptEnd:
        """See ProcessPool.run()."""
        process = self._process
        assert process is not None
        try:
            await _send(process, run)
            await _wait_for_answer(process, run.hard_s)
            reply = await _receive(process)
        except BaseException:
            # A cancelled run, too, ends the process: the next run must not get its answer.
            await self._kill()
            raise
        if isinstance(reply, LambdaTasksError):
            raise reply
        if reply.replaces_process:
            await self._kill()
        return reply

    async def _kill(self) -> None:
        self.interrupt()
        await in_reserved_thread(self._end)

    def interrupt(self) -> None:
        """Kill the process or give up its start, without waiting."""
        if (starting := self._starting) is not None:
            starting.give_up()
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """Wait for an interrupted start, and end the process."""
        while not self._lock.acquire(timeout=INTERRUPT_EVERY_S):
            self.interrupt()
        try:
            self.interrupt()  # the process may have become ready just before the lock was free
            self._end()
        finally:
            self._lock.release()

    def _start(self) -> None:
        with self._lock:
            if self._process is not None and self._process.is_ready():
                return
            self._end()
            self._starting = ProcessStart(self._main)
            try:
                self._process = self._starting.run()
            finally:
                self._starting = None

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()


async def _send(process: StartedProcess, run: Run) -> None:
    try:
        await worker_pipe.asend(process.pipe, run)
    except OSError as error:  # a TimeoutError is one too
        raise ProcessNotStarted(
            f"A worker process did not receive its task ({error!r})."
        ) from error


async def _wait_for_answer(process: StartedProcess, hard_s: float) -> None:
    """Wait until the pipe can be read: the answer has arrived, or the process has ended.

    Raises HardTimeLimitExceeded KILL_GRACE_S after the hard timeout, and WorkerProcessDied.
    """
    descriptor = process.pipe.fileno()
    try:
        async with asyncio.timeout(hard_s + KILL_GRACE_S):
            if await _wait_readable(descriptor, process.sentinel) == descriptor:
                return
            if not process.pipe.poll(0) and not process.is_gone():
                await _wait_readable(descriptor)  # the fork server ended, and the process lives on
    except TimeoutError:
        raise HardTimeLimitExceeded(HARD_MESSAGE.format(hard_s)) from None
    if not process.pipe.poll(0):
        # A process that the task started may hold the pipe open, so the pipe shows no end.
        raise await in_reserved_thread(process.death_error)


async def _receive(process: StartedProcess) -> Reply:
    try:
        reply: Reply = await worker_pipe.areceive(process.pipe)
    except TimeoutError:
        raise LambdaTasksError("A worker process did not send the whole of its answer.") from None
    except (EOFError, OSError):
        raise await in_reserved_thread(process.death_error) from None
    return reply


async def _wait_readable(*descriptors: int) -> int:
    """Wait until one of the descriptors can be read, and return that one."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()

    def wake(descriptor: int) -> None:
        if not ready.done():
            ready.set_result(descriptor)

    for descriptor in descriptors:
        loop.add_reader(descriptor, wake, descriptor)
    try:
        return await ready
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
