"""The parent's side of LAMBDA_TASKS_LOCAL_WORKERS: a worker for the process that enqueues.

The worker is one child process with an executor of its own. It reads the records' table, so neither
the child's death nor the parent's loses a message. The parent wakes the child through a pipe, and
the child ends when the pipe closes.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from typing import Final

from ..conf import LOCAL_WORKERS_VARIABLE

logger = logging.getLogger("lambda_tasks")

CHILD_MODULE: Final = "lambda_tasks.entrypoints.local_workers"
"""The module that the child runs. It stands above this one, which must not import it."""

EXIT_LIMIT_S: Final = 15.0
"""Seconds for the child to exit, after which it is killed. It needs 10 s at most to finish."""

RESTART_AFTER_S: Final = 1.0
"""Seconds between the child's unexpected end and its restart."""


class LocalWorkers:
    """The parent's handle of the worker process, which starts with the first message.

    `count` is the number of its processes for sync tasks.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def wake(self) -> None:
        """Notify the worker process of a new message in the table; start the process if needed."""
        if LOCAL_WORKERS_VARIABLE in os.environ:
            return  # This is the child, or a process of it: the child polls the table anyway.
        with self._lock:
            if self._is_closed:
                return  # The row waits for the worker of another process.
            if self._process is None:
                self._process = self._spawn()
                threading.Thread(target=self._keep_alive, daemon=True).start()
            assert self._process.stdin is not None
            # A child that has just died is replaced, and its successor reads the table first.
            if not self._process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.write(b".")

    def close(self) -> None:
        """Let the worker process finish what is due and exit; kill it after EXIT_LIMIT_S."""
        with self._lock:
            self._is_closed, process = True, self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(EXIT_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _keep_alive(self) -> None:
        while True:
            process = self._process
            assert process is not None
            code = process.wait()
            with self._lock:
                if self._is_closed:
                    return
                logger.error("The local workers exited with code %d and will be restarted.", code)
                assert process.stdin is not None
                process.stdin.close()
            time.sleep(RESTART_AFTER_S)
            with self._lock:
                if self._is_closed:
                    return
                try:
                    self._process = self._spawn()
                except OSError:  # for example, no process can be forked
                    logger.exception("The local workers can't be started for now.")

    def _spawn(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(  # noqa: S603 - this library's own module
            [sys.executable, "-m", CHILD_MODULE],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                LOCAL_WORKERS_VARIABLE: str(self._count),
            },
            stdin=subprocess.PIPE,
            bufsize=0,  # a word to a child that has died must not fail again when stdin is closed
            # Ctrl+C at a terminal would reach the child too. The parent lets it finish instead.
            start_new_session=True,
        )
        assert process.stdin is not None
        # A child that hangs leaves the pipe full: it has been woken, and no caller waits for it.
        os.set_blocking(process.stdin.fileno(), False)
        return process
