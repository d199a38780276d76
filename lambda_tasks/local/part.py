"""One process of `dev`, with all processes that it starts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

DRAIN_S: Final = 5.0
"""Seconds for the runs of a part to end, after which it gives them back to their queues."""

STOP_LIMIT_S: Final = DRAIN_S + 10.0
"""Seconds for a part to stop, after which it is killed."""

KILL_LIMIT_S: Final = 2.0
"""Seconds for killed processes to be gone."""

PROCESSES: Final = Path("/proc")


@dataclass(slots=True)
class Part:
    """A process that is started, watched and stopped. It leads a session of its own."""

    name: str
    arguments: list[str]
    """The arguments of the Python interpreter."""
    reloads: bool = True
    """Whether the parent restarts it when the code changes. The server reloads itself."""
    pids: list[int] = field(default_factory=list)
    """The ids of its processes, one for each start."""
    waits_for_change: bool = False
    """Whether it ended by itself, and another start would only fail again."""
    _process: "subprocess.Popen[bytes] | None" = None
    _kill_at: float | None = None
    """The time in monotonic seconds to kill it, once it was told to stop."""

    def start(self) -> None:
        """Start the process. What is left of the one before is killed."""
        self.kill()
        self.waits_for_change, self._kill_at = False, None
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, *self.arguments],
            # Unbuffered, so that its lines appear at once even if `dev` writes into a pipe.
            env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            # Ctrl+C at a terminal would reach every part. The parent stops them in order instead.
            start_new_session=True,
        )
        self.pids.append(self._process.pid)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop, and not started again since."""
        return self._kill_at is not None

    def exit_code(self) -> int | None:
        """Return the exit code, or None while the process runs. Kills it if it does not stop."""
        if self._process is None:
            return 0
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._process.kill()
        return self._process.poll()

    def stop(self) -> None:
        """Tell the process to stop; a second time, to stop at once. Returns before it has."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        if self._kill_at is None:
            self._kill_at = time.monotonic() + STOP_LIMIT_S

    def kill(self) -> None:
        """Kill the process and all others of its session, and wait until they are gone."""
        if self._process is None:
            return
        give_up_at = time.monotonic() + KILL_LIMIT_S
        while members := list(_members(self._process.pid)):
            for pid in members:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()  # a process that nobody waits for would stay a member
            if time.monotonic() > give_up_at:
                break
            time.sleep(0.01)
        self._process.wait()
        self._process = None


def _members(session: int) -> Iterator[int]:
    """Yield the ids of the processes in a session.

    Worker processes have process groups of their own, and outlive a parent that is killed.
    """
    for pid in _all_pids():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == session:
                yield pid


def _all_pids() -> list[int]:
    if PROCESSES.exists():
        return [int(each.name) for each in PROCESSES.iterdir() if each.name.isdigit()]
    listed = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]
