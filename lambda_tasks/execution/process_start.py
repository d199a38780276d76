"""Starts one worker process, within a time limit, and ends it."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Final

from ..errors import WorkerProcessDied
from . import fork_server

START_S: Final = 60.0
"""For a process to be started and ready. The fork server may have to load the project first."""

TOLD_S: Final = 3.0
"""For the fork server to tell that a process has ended which was killed."""

RESTART_PAUSES_S: Final = (0.05, 0.2, 1.0)
"""For a fork server that is dying to be dead, so that the next try finds it so."""

Main = Callable[[Connection], None]
"""What a worker process does with its end of the pipe; found there by its dotted name."""


class ProcessNotStarted(Exception):
    """No worker process could take a run, which therefore has not begun."""


class Start:
    """The start of one process, which may be given up from another thread."""

    def __init__(self, main: Main) -> None:
        self._main = main
        self._deadline = time.monotonic() + START_S

    def run(self) -> "StartedProcess":
        """Start the process and wait until it is ready, for START_S at most.

        Raises ProcessNotStarted.
        """
        giving_up = threading.Timer(self._left_s, self.give_up)
        giving_up.daemon = True
        try:
            giving_up.start()
            return self._try_again_and_again()
        except Exception as error:
            raise ProcessNotStarted(
                f"A worker process could not be started ({error!r})."
            ) from error
        finally:
            giving_up.cancel()

    def give_up(self) -> None:
        """Let run() come to its end soon. The fork server, which may hang, is replaced."""
        self._deadline = time.monotonic()
        fork_server.kill()

    @property
    def _left_s(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    def _try_again_and_again(self) -> "StartedProcess":
        """By another fork server if the one that is asked dies just then."""
        for pause_s in RESTART_PAUSES_S:
            with suppress(EOFError, ConnectionError):
                return self._try()
            time.sleep(min(pause_s, self._left_s))
        return self._try()

    def _try(self) -> "StartedProcess":
        context = fork_server.context()
        pipe, child_end = context.Pipe()
        process = context.Process(
            target=self._main, args=(child_end,), name="lambda_tasks-worker", daemon=True
        )
        started = StartedProcess(process, pipe)
        try:
            with child_end, fork_server.start_alone(self._left_s):
                if not self._left_s:
                    raise _too_late()
                process.start()
            started.follow()
            self._wait_until_ready(started)
        except BaseException:
            # Out of descriptors, say: the next run tries again.
            started.kill()
            started.end()
            raise
        return started

    def _wait_until_ready(self, started: "StartedProcess") -> None:
        connection.wait([started.pipe, started.sentinel], timeout=self._left_s)
        if started.pipe.poll(0):
            started.pipe.recv_bytes()
        elif self._left_s:
            raise EOFError("It ended before it was ready.")
        else:
            raise _too_late()


class StartedProcess:
    """A worker process, and this side of its pipe."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.pipe = pipe
        self._process = process
        self._word = select.poll()
        self._word.register(pipe.fileno(), select.POLLIN)

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """Readable when it has ended; and when its fork server has, which can't tell any more."""
        return self._process.sentinel

    def follow(self) -> None:
        """Let is_ready() look at its end, too, once it was started."""
        self._word.register(self.sentinel, select.POLLIN)

    def is_ready(self) -> bool:
        """Whether it can take a run: it lives, and its pipe is silent."""
        return not self._word.poll(0)

    def is_gone(self) -> bool:
        """Whether it has ended for certain."""
        assert self.pid is not None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def death(self) -> WorkerProcessDied:
        """How it has ended by itself, as an error."""
        self._process.join(timeout=1)
        how = _in_words(self._process.exitcode)
        return WorkerProcessDied(f"The process that ran the task ended {how}.")

    def kill(self) -> None:
        """Kill it and all that it has started; without waiting for that."""
        for kill in (os.killpg, os.kill):
            if self.pid is not None:
                with suppress(ProcessLookupError):
                    kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Close what is left of a process that was killed, or has ended."""
        self.pipe.close()
        if self.pid is not None:
            self._process.join(TOLD_S)
            if self._process.exitcode is None:
                # A fork server that hangs tells nobody of it, and Python's end would wait for it.
                fork_server.kill()
                self._process.join(TOLD_S)
        self._process.close()


def _too_late() -> TimeoutError:
    return TimeoutError(f"It was given up, or not ready after {START_S:g} s.")


def _in_words(exit_code: int | None) -> str:
    if exit_code is None:
        return "without a trace"
    if exit_code < 0:
        return f"by {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"
