"""The start of one worker process within a time limit, and its end."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

from django.db import connections

from ..errors import WorkerProcessDied
from . import fork_server

START_LIMIT_S: Final = 60.0
"""Seconds for a process to be ready, including the fork server's loading of the project."""

EXIT_REPORT_S: Final = 3.0
"""Seconds for the fork server to report that a killed process has ended."""

RESTART_PAUSES_S: Final = (0.05, 0.2, 1.0)
"""Seconds between tries to start a process, for a dying fork server to be gone."""

Main = Callable[[Connection, socket.socket], None]
"""The main function of a worker process, called with its ends of its pipe and of the RunSocket.

The process imports it by its dotted name.
"""


def serve_on_databases(
    names: Mapping[str, Any], main: Main, pipe: Connection, workers_end: socket.socket
) -> None:
    """Call the main function of a worker process, on the databases that its parent works on.

    In tests they are others than the settings name, and the child has loaded only those.
    """
    for alias, name in names.items():
        if alias in connections.settings:  # a test may have added one
            connections.settings[alias]["NAME"] = name
    main(pipe, workers_end)


def _database_names() -> dict[str, Any]:
    return {alias: each["NAME"] for alias, each in connections.settings.items()}


class ProcessNotStarted(Exception):
    """No worker process could receive a run, so the run has not started."""


class ProcessStart:
    """The start of one process, which can be given up from another thread."""

    def __init__(self, main: Main, workers_end: socket.socket) -> None:
        self._main = main
        self._workers_end = workers_end
        self._deadline = time.monotonic() + START_LIMIT_S

    def run(self) -> "StartedProcess":
        """Start the process and wait until it is ready, for START_LIMIT_S at most.

        Raises ProcessNotStarted if it is not ready by then, can't be started, or is given up.
        """
        giving_up = threading.Timer(self._left_s, self.give_up)
        giving_up.daemon = True
        try:
            giving_up.start()
            return self._start_with_retries()
        except Exception as error:
            raise ProcessNotStarted(
                f"A worker process could not be started ({error!r})."
            ) from error
        finally:
            giving_up.cancel()

    def give_up(self) -> None:
        """Make run() fail soon. The fork server, which may hang, is killed and so replaced."""
        self._deadline = time.monotonic()
        fork_server.kill()

    @property
    def _left_s(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)

    def _start_with_retries(self) -> "StartedProcess":
        """Start the process, with another fork server if the current one dies meanwhile."""
        for pause_s in RESTART_PAUSES_S:
            with suppress(EOFError, ConnectionError):
                return self._start_once()
            time.sleep(min(pause_s, self._left_s))
        return self._start_once()

    def _start_once(self) -> "StartedProcess":
        context = fork_server.context()
        pipe, child_end = context.Pipe()
        process = context.Process(
            target=serve_on_databases,
            args=(_database_names(), self._main, child_end, self._workers_end),
            name="lambda_tasks-worker",
            daemon=True,
        )
        started = StartedProcess(process, pipe)
        try:
            with child_end, fork_server.start_alone(self._left_s):
                if not self._left_s:
                    raise _timeout_error()
                process.start()
            self._wait_until_ready(started)
        except BaseException:
            # For example, no file descriptor is free. Leave nothing behind: the next run tries
            # again.
            started.kill()
            started.end()
            raise
        return started

    def _wait_until_ready(self, started: "StartedProcess") -> None:
        connection.wait([started.pipe, started.sentinel], timeout=self._left_s)
        if started.pipe.poll(0):
            started.pipe.recv_bytes()
        elif self._left_s:
            raise EOFError("The process ended before it was ready.")
        else:
            raise _timeout_error()


class StartedProcess:
    """A worker process, and the parent's end of its pipe."""

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.pipe = pipe
        self._process = process

    @property
    def pid(self) -> int | None:
        """The process id; None before the start."""
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """The descriptor that becomes readable when the process, or its fork server, has ended."""
        return self._process.sentinel

    def is_gone(self) -> bool:
        """Return whether the process has certainly ended."""
        assert self.pid is not None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def death_error(self) -> WorkerProcessDied:
        """Return an error that describes how the process ended."""
        self._process.join(timeout=1)
        how = _describe_exit(self._process.exitcode)
        return WorkerProcessDied(f"The process that ran the task ended {how}.")

    def kill(self) -> None:
        """Kill the process and all processes that it started, without waiting."""
        for kill in (os.killpg, os.kill):
            if self.pid is not None:
                with suppress(ProcessLookupError):
                    kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Release the resources of a process that was killed or has ended."""
        self.pipe.close()
        if self.pid is not None:
            self._process.join(EXIT_REPORT_S)
            if self._process.exitcode is None:
                # The fork server hangs and does not report the exit code. Python would wait for
                # the process at its own exit.
                fork_server.kill()
                self._process.join(EXIT_REPORT_S)
        self._process.close()


def _timeout_error() -> TimeoutError:
    return TimeoutError(f"The process was given up, or was not ready after {START_LIMIT_S:g} s.")


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return "without a trace"
    if exit_code < 0:
        return f"by {signal.Signals(-exit_code).name}"
    return f"with exit code {exit_code}"
