"""Workers side by side, as a container service keeps them: what has ended is started again."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Self

from tests.servers.family import frozen, kill_family
from tests.servers.members import Members

START_AGAIN_S: Final = 0.2

NEVER_S: Final = 60.0
"""A worker that still runs so long after SIGTERM will never end."""


_WORK: Final = """
import os, sys, threading
def end_with_parent():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "lambda_tasks", "worker", *sys.argv[1:]])
"""
"""Standard input is a pipe from who starts it: it closes when that one ends, however it ends."""


class WorkerStuck(Exception):
    """A worker has not ended after SIGTERM; it was killed."""


class WorkerProcess:
    """`manage.py lambda_tasks worker`, started again whenever it ends, until stop().

    Both output streams of all of them go to the file `log`.
    """

    def __init__(
        self,
        *arguments: str,
        log: Path,
        env: Mapping[str, str],
        python: str = sys.executable,
        directory: Path | None = None,
    ) -> None:
        self.log = log
        self.surprises: list[int] = []
        """The exit codes of those that nobody had told to end."""
        self._command = [python, "-c", _WORK, *arguments]
        self._env = env
        self._directory = directory
        self._told: set[int] = set()
        self._stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._keeper = threading.Thread(target=self._keep)

    def start(self) -> None:
        """Return when its process has begun."""
        self._keeper.start()
        self._running()

    def stop(self) -> float | None:
        """Let it not start again; see terminate(). None where it is just between two processes."""
        with self._changed:
            self._stopping = True
            process = self._process
        try:
            return None if process is None else self._terminate(process)
        finally:
            self._keeper.join()

    @property
    def pid(self) -> int:
        """Its process; where one has just ended, the next one."""
        return self._running().pid

    def kill(self, *, alone: bool) -> None:
        """SIGKILL for the process alone, as from the kernel's want of memory, or for all that it
        has started too, as when its host is gone."""
        process = self._running()
        self._told.add(process.pid)
        if alone:
            process.kill()
        elif process.poll() is None:  # else its number may be another's
            kill_family(process.pid)
        process.wait()

    def terminate(self) -> float:
        """SIGTERM; the seconds until it has ended. Raises WorkerStuck."""
        return self._terminate(self._running())

    def _terminate(self, process: "subprocess.Popen[bytes]") -> float:
        self._told.add(process.pid)
        began_at = time.monotonic()
        process.terminate()
        try:
            process.wait(NEVER_S)
        except subprocess.TimeoutExpired:
            kill_family(process.pid)
            message = f"Worker {process.pid} still ran {NEVER_S:g} s after SIGTERM: see {self.log}."
            raise WorkerStuck(message) from None
        return time.monotonic() - began_at

    def _running(self) -> "subprocess.Popen[bytes]":
        with self._changed:
            self._changed.wait_for(lambda: self._process is not None)
            assert self._process is not None
            return self._process

    def _keep(self) -> None:
        with self.log.open("ab") as log:
            while (process := self._begin(log)) is not None:
                process.wait()
                assert process.stdin is not None
                process.stdin.close()
                with self._changed:
                    self._process = None
                if process.pid not in self._told:
                    self.surprises.append(process.returncode)
                time.sleep(START_AGAIN_S)

    def _begin(self, log: IO[bytes]) -> "subprocess.Popen[bytes] | None":
        with self._changed:
            if self._stopping:
                return None
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env={**os.environ, **self._env},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self._changed.notify_all()
            return self._process


class Crew:
    """Use it as a context manager. At its end each worker gets SIGTERM, all at once."""

    def __init__(self, workers: Sequence[WorkerProcess], *, veterans: int = 0) -> None:
        self.kills = 0
        self.ended_after_s: list[float] = []
        """Seconds from each SIGTERM to the end of the worker that got it."""
        self.stuck: list[str] = []
        self._workers = workers
        self._members = Members(workers, veterans=veterans)

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        stopping = [
            threading.Thread(target=self._note_end, args=(worker.stop,)) for worker in self._workers
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    @property
    def pids(self) -> list[int]:
        """The workers' processes, without what these have started."""
        return [worker.pid for worker in self._workers]

    @property
    def surprises(self) -> list[int]:
        """The exit codes of workers that ended untold."""
        return [code for worker in self._workers for code in worker.surprises]

    def kill_one(self, *, alone: bool = False) -> None:
        """See WorkerProcess.kill()."""
        with self._members.one(may_die=True) as worker:
            worker.kill(alone=alone)
        self.kills += 1

    def terminate_one(self) -> None:
        """SIGTERM, as by each deployment."""
        with self._members.one(may_die=True) as worker:
            self._note_end(worker.terminate)

    @contextmanager
    def one_frozen(self, *, may_die: bool = False) -> Iterator[None]:
        """In the body one of them is stopped with all that it has started, and goes on after it.

        `may_die` spares the veterans, as from one that was frozen for long others take over.
        """
        with self._members.one(may_die=may_die) as worker, frozen(worker.pid):
            yield

    def _note_end(self, end: Callable[[], float | None]) -> None:
        try:
            seconds = end()
        except WorkerStuck as stuck:
            self.stuck.append(str(stuck))
        else:
            self.ended_after_s += [] if seconds is None else [seconds]
