"""The parent's side of the worker processes: started once, reused, replaced when they die.

Pipes and processes only: Lambda has no /dev/shm, and so no semaphores, queues or pools.
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
from .process_start import Main, ProcessNotStarted, Start, StartedProcess
from .run import Ended, Run
from .worker_process import Reply

logger = logging.getLogger("lambda_tasks")

KILL_GRACE_S: Final = 2.0
"""How long a task may ignore its hard timeout before its process is killed."""

INTERRUPT_EVERY_S: Final = 0.5
"""What is started may not have come yet to where an interruption ends it."""


class ProcessPool:
    """So many worker processes, each started when it is first needed."""

    def __init__(self, count: int, main: Main) -> None:
        self._workers = [_Worker(main) for _ in range(count)]
        # Last in, first out: a warm one is taken before another is started.
        self._free: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for worker in reversed(self._workers):
            self._free.put_nowait(worker)

    @property
    def count(self) -> int:
        """How many there may be."""
        return len(self._workers)

    async def run(self, make_run: Callable[[], Awaitable[Run]]) -> Ended:
        """Run what is given once a process is free and ready for it: only then it is asked for.

        Raises what `make_run` raises, HardTimeLimitExceeded where the process had to be killed,
        WorkerProcessDied where it ended by itself, LambdaTasksError where what has become of the
        record is not known, ProcessNotStarted where no process could begin the task.
        """
        worker = await self._free.get()
        try:
            await worker.start()
            return await worker.run(await make_run())
        except ProcessNotStarted as error:
            logger.exception("%s Its task goes back to its queue.", error)
            raise
        finally:
            self._free.put_nowait(worker)

    def prepare(self) -> None:
        """Let the fork server load the project meanwhile."""
        fork_server.prepare()

    def pids(self) -> list[int]:
        """The processes that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    async def aclose(self) -> None:
        """End them all, and those that are being started; what they run is rolled back by the
        database."""
        for worker in self._workers:
            worker.interrupt()
        for worker in self._workers:
            await in_reserved_thread(worker.close)


class _Worker:
    """The place of one process."""

    def __init__(self, main: Main) -> None:
        self._main = main
        self._process: StartedProcess | None = None
        self._starting: Start | None = None
        self._lock = threading.Lock()
        """Held while a process is started, also for a run that was cancelled meanwhile."""

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process, unless it is ready. Raises ProcessNotStarted."""
        if self._process is None or not self._process.is_ready():
            await in_reserved_thread(self._start)

    async def run(self, run: Run) -> Ended:
        """See ProcessPool.run()."""
        process = self._process
        assert process is not None
        try:
            await _send(process, run)
            await _wait_for_answer(process, run.hard_s)
            reply = await _receive(process)
        except BaseException:
            # Also where it is cancelled: the next run must not get the answer of this one.
            self.interrupt()
            await in_reserved_thread(self._end)
            raise
        if isinstance(reply, LambdaTasksError):
            raise reply
        return reply

    def interrupt(self) -> None:
        """Kill the process, or give up its start; without waiting for that."""
        if (starting := self._starting) is not None:
            starting.give_up()
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End what was interrupted."""
        while not self._lock.acquire(timeout=INTERRUPT_EVERY_S):
            self.interrupt()
        try:
            self.interrupt()  # it may have been ready just before
            self._end()
        finally:
            self._lock.release()

    def _start(self) -> None:
        with self._lock:
            if self._process is not None and self._process.is_ready():
                return
            self._end()
            self._starting = Start(self._main)
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
    except OSError as error:  # a TimeoutError, too
        raise ProcessNotStarted(f"A worker process did not take its task ({error!r}).") from error


async def _wait_for_answer(process: StartedProcess, hard_s: float) -> None:
    """Until there is something to receive, if only the end of the pipe."""
    descriptor = process.pipe.fileno()
    try:
        async with asyncio.timeout(hard_s + KILL_GRACE_S):
            if await _readable(descriptor, process.sentinel) == descriptor:
                return
            if not process.pipe.poll(0) and not process.is_gone():
                await _readable(descriptor)  # it is its fork server that has ended
    except TimeoutError:
        raise HardTimeLimitExceeded(HARD_MESSAGE.format(hard_s)) from None
    if not process.pipe.poll(0):
        # What the task has started may hold the pipe of the dead process open.
        raise await in_reserved_thread(process.death)


async def _receive(process: StartedProcess) -> Reply:
    try:
        reply: Reply = await worker_pipe.areceive(process.pipe)
    except TimeoutError:
        raise LambdaTasksError("A worker process has not said all of its answer.") from None
    except (EOFError, OSError):
        raise await in_reserved_thread(process.death) from None
    return reply


async def _readable(*descriptors: int) -> int:
    """Wait until one of them can be read: an answer, or the end of the process. Which it is."""
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
