"""Workers side by side, as a container service keeps them: what has ended is started again."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Self

from tests.servers.family import frozen, kill, kill_family

START_AGAIN_S: Final = 0.2

NEVER_S: Final = 60.0
"""After its drain a worker that still runs will never end; it is killed and counted as frozen."""


class WorkerProcess:
    """`manage.py lambda_tasks worker`, with what it has told in `log`.

    It is started again whenever it ends, until stop().
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        directory: Path | None = None,
        python: str = sys.executable,
    ) -> None:
        self.log = log
        self.ended_by_itself: list[int] = []
        """The exit codes of those that nobody had told to end."""
        self._command = [python, "-m", "django", "lambda_tasks", "worker", *arguments]
        self._env = env
        self._directory = directory
        self._is_told = threading.Event()
        self._stopping = False
        self._runs = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep)

    def start(self) -> None:
        self._keeper.start()
        self.pid  # noqa: B018 - until there is one

    @property
    def pid(self) -> int:
        """Of the one that runs; it waits until there is one."""
        return self._running().pid

    def kill(self, *, alone: bool) -> None:
        """SIGKILL, for the process `alone` or for all that it has started too."""
        self._is_told.set()
        (kill if alone else kill_family)(self.pid)

    def terminate(self) -> float:
        """SIGTERM; the seconds until it has ended. Raises TimeoutError where it does not."""
        process = self._running()
        self._is_told.set()
        began_at = time.monotonic()
        process.terminate()
        try:
            process.wait(NEVER_S)
        except subprocess.TimeoutExpired:
            kill_family(process.pid)
            raise TimeoutError(f"Worker {process.pid} did not end. See {self.log}.") from None
        return time.monotonic() - began_at

    def stop(self) -> float:
        """Let it end and not start again; see terminate()."""
        self._stopping = True
        try:
            return self.terminate()
        finally:
            self._keeper.join()

    def _running(self) -> "subprocess.Popen[bytes]":
        with self._runs:
            self._runs.wait_for(lambda: self._process is not None)
            assert self._process is not None
            return self._process

    def _keep(self) -> None:
        with self.log.open("ab") as log:
            while not self._stopping:
                process = self._spawn(log)
                self._set(process)
                process.wait()
                self._set(None)
                if not self._is_told.is_set():
                    self.ended_by_itself.append(process.returncode)
                self._is_told.clear()
                time.sleep(START_AGAIN_S)

    def _set(self, process: "subprocess.Popen[bytes] | None") -> None:
        with self._runs:
            self._process = process
            self._runs.notify_all()

    def _spawn(self, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command,
            cwd=self._directory,
            env=os.environ | self._env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
