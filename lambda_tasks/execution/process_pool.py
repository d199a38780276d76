"""The parent's side of the worker processes: started once, reused, replaced when they die.

Pipes and processes only: Lambda has no /dev/shm, and so no semaphores, queues or pools. The
children come from a fork server, because a process with threads must not be forked.
"""

import asyncio
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Final

from ..errors import HardTimeLimitExceeded, LambdaTasksError, WorkerProcessDied
from ..threads import in_reserved_thread
from .alarm import HARD_MESSAGE
from .run import Ended, Run
from .worker_process import Reply

KILL_GRACE_S: Final = 2.0
"""How long a task may ignore its hard timeout before its process is killed."""


RESTART_PAUSES_S: Final = (0.05, 0.2, 1.0)
"""For a fork server that is dying to be dead, so that the next start finds it so."""

Main = Callable[[Connection], None]
"""What a worker process does with its end of the pipe; found there by its dotted name."""


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
        """Run what is given when a process is free for it. Raises what `make_run` raises.

        Raises HardTimeLimitExceeded where the process had to be killed, WorkerProcessDied where
        it ended by itself, LambdaTasksError where it could not write the record.
        """
        worker = await self._free.get()
        try:
            return await worker.run(await make_run())
        finally:
            self._free.put_nowait(worker)

    def prepare(self) -> None:
        """Start the fork server, which loads the project by itself; without waiting for it."""
        _fork_server()
        forkserver.ensure_running()

    def pids(self) -> list[int]:
        """The processes that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def close(self) -> None:
        """End them all; what they run is rolled back by the database."""
        for worker in self._workers:
            worker.kill()


class _Worker:
    def __init__(self, main: Main) -> None:
        self._main = main
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._end = select.poll()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self._process is not None and self._process.is_alive():
            return
        self._forget()
        context = _fork_server()
        pipe, child_end = context.Pipe()
        process = context.Process(
            target=self._main, args=(child_end,), name="lambda_tasks-worker", daemon=True
        )
        try:
            with _without_main_module():
                _start(process)
        except BaseException:
            # Out of descriptors, say: the next run tries again.
            pipe.close()
            raise
        finally:
            child_end.close()
        self._process, self._pipe = process, pipe
        self._end = select.poll()
        self._end.register(process.sentinel)

    async def run(self, run: Run) -> Ended:
        if self._process is None or self._end.poll(0):
            await in_reserved_thread(self.start)
        reply = await self._answer(run)
        if isinstance(reply, LambdaTasksError):
            raise reply
        return reply

    async def _answer(self, run: Run) -> Reply:
        assert self._process is not None
        assert self._pipe is not None
        try:
            self._pipe.send(run)
            async with asyncio.timeout(run.hard_s + KILL_GRACE_S):
                await _readable(self._pipe.fileno(), self._process.sentinel)
            if not self._pipe.poll(0):
                # What the task has started may hold the pipe of the dead process open.
                raise EOFError
            reply: Reply = self._pipe.recv()
        except TimeoutError:
            await in_reserved_thread(self.kill)
            raise HardTimeLimitExceeded(HARD_MESSAGE.format(run.hard_s)) from None
        except (EOFError, OSError):
            raise await in_reserved_thread(self._death) from None
        except asyncio.CancelledError:
            # Nobody waits for the answer any more; the next run must not get it.
            await in_reserved_thread(self.kill)
            raise
        return reply

    def kill(self) -> None:
        """Kill the process and all that it has started."""
        if self._process is None or self._process.pid is None:
            return
        for kill in (os.killpg, os.kill):
            try:
                kill(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._forget()

    def _death(self) -> WorkerProcessDied:
        assert self._process is not None
        self._process.join(timeout=1)
        code = self._process.exitcode
        self.kill()
        return WorkerProcessDied(f"The process that ran the task ended {_in_words(code)}.")

    def _forget(self) -> None:
        if self._process is not None:
            self._process.join(timeout=5)
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preload"])
    return context


def _start(process: BaseProcess) -> None:
    """Start it, by another fork server if the one that is asked dies just then."""
    for pause_s in RESTART_PAUSES_S:
        with suppress(EOFError, ConnectionError):
            process.start()
            return
        time.sleep(pause_s)
    process.start()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Let the child not run this process's main module, which may lack its
    `if __name__ == "__main__"` and would start a second worker there."""
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


_starting = threading.Lock()


async def _readable(*descriptors: int) -> None:
    """Wait until one of them can be read: an answer, or the end of the process."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    for descriptor in descriptors:
        loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)


def _in_words(exit_code: int | None) -> str:
    if exit_code is None:
        return "without a trace"
    if exit_code < 0:
        return f"by {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"
