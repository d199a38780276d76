"""LAMBDA_TASKS_LOCAL_WORKERS: a worker beside the process that enqueues, and for it alone. This is
the side of the process that enqueues.

One child process with an executor of its own, fed from the table of the records: what is waiting
there is lost neither with the child nor with its parent. It is told through a pipe that something
new is there, and ends when the pipe does.
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

CHILD: Final = "lambda_tasks.entrypoints.local_workers"
"""The module of the child, which this one must not import."""

END_WITHIN_S: Final = 15.0
"""For the child to finish and to end; longer than it should need."""

RESTART_AFTER_S: Final = 1.0


class LocalWorkers:
    """The parent's side; the process is started when there is first something to run."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def wake(self) -> None:
        """Something new is in the table."""
        if LOCAL_WORKERS_VARIABLE in os.environ:
            return  # this is the child, or one of its own, and looks again by itself
        with self._lock:
            if self._closed:
                return  # its row waits for the next one
            if self._process is None:
                self._process = self._spawn()
                threading.Thread(target=self._keep_alive, daemon=True).start()
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is being replaced, and looks first
                self._process.stdin.write(b".")
                self._process.stdin.flush()

    def close(self) -> None:
        """Let it finish what is due, for some seconds, and end."""
        with self._lock:
            self._closed, process = True, self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _keep_alive(self) -> None:
        while True:
            process = self._process
            assert process is not None
            code = process.wait()
            with self._lock:
                if self._closed:
                    return
                logger.error("The local workers ended with %d and are started again.", code)
                assert process.stdin is not None
                process.stdin.close()
            time.sleep(RESTART_AFTER_S)
            with self._lock:
                if self._closed:
                    return
                self._process = self._spawn()

    def _spawn(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603 - this library's own module
            [sys.executable, "-m", CHILD],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                LOCAL_WORKERS_VARIABLE: str(self._count),
            },
            stdin=subprocess.PIPE,
            # Ctrl+C at a terminal is for the parent, which lets it finish.
            start_new_session=True,
        )
