"""A server's program as a child process that ends with the tests, however these end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, ClassVar, Self

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0

_GUARD = """
import os, shutil, subprocess, sys, threading
directory, user, group, stop_signal, patience_s, *command = sys.argv[1:]
options = {"user": user, "group": int(group), "extra_groups": []} if user else {}
resting = []
def start():
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, **options)
    threading.Thread(target=follow, args=(server,)).start()
    print(server.pid, flush=True)
    return server
def follow(server):
    code = server.wait()
    if server not in resting:
        leave(code & 0xFF)
def end(server):
    server.send_signal(int(stop_signal))
    killing = threading.Timer(float(patience_s), server.kill)
    killing.daemon = True
    killing.start()
def leave(code):
    if directory:
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(code)
server = start()
while word := os.read(0, 1):
    if word == b"-":
        resting.append(server)
        end(server)
        server.wait()
        print(0, flush=True)
    else:
        server = start()
if server in resting:
    leave(0)
end(server)
"""
"""Stands between the tests and the server: the end of its standard input, which the tests hold,
stops the server, and its directory goes too. So stop() and the tests' own end, even by SIGKILL,
take the same way. A "-" there stops the server alone, another character starts it again."""


class ServerUnavailable(Exception):
    """A server can't be had on this machine; the message says why and how to get it."""


class ServerProcess:
    """What the servers have in common. A subclass says in `_run` what to start, and in `_answers`
    whether it can be used by now."""

    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self.pid: int | None = None
        self._directory: Path | None = None
        self._guard: subprocess.Popen[str] | None = None
        self._log: IO[str]  # what the server writes while it starts, for the reason if it fails

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self.pid is None else f"pid {self.pid}"
        return f"<{type(self).__name__} [{state}]>"

    def start(self) -> None:
        """Return when it answers. Raises ServerUnavailable with the reason where it can't."""
        if self._guard is not None:
            return
        with tempfile.TemporaryFile("w+") as self._log:
            try:
                self._run()
            except BaseException:
                self.stop()
                raise

    @contextmanager
    def down(self) -> Iterator[None]:
        """In the body it is stopped, with its data kept; after it it answers again.

        Raises ServerUnavailable where it does not.
        """
        self._tell_guard("-")
        try:
            yield
        finally:
            with tempfile.TemporaryFile("w+") as self._log:
                self._tell_guard("+")
                self._wait_until(self._answers)

    def stop(self) -> None:
        """Return when it has ended and what it wrote is gone; a second time does nothing."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait(timeout=STOP_TIMEOUT_S + 5)
            if self._guard.stdout is not None:
                self._guard.stdout.close()
            self._guard = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        self.pid = None

    def _run(self) -> None:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _make_directory(self, *, for_others: bool = False) -> Path:
        """A temporary one for what the server writes; it goes with the server.

        With `for_others`, other users can come as far as to it: TMPDIR may be in root's home.
        """
        parent = _open_directory() if for_others else None
        self._directory = Path(tempfile.mkdtemp(prefix="lambda_tasks_server_", dir=parent))
        return self._directory

    def _spawn(self, command: Sequence[object], *, as_user: tuple[str, int] | None = None) -> None:
        user, group = as_user or ("", 0)
        options = [self._directory or "", user, group, int(self.stop_signal), STOP_TIMEOUT_S]
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, *map(str, [*options, *command])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd="/",
            text=True,
            # Ctrl+C at a terminal is for the tests, which stop the server in order.
            start_new_session=True,
        )
        self._read_pid()

    def _tell_guard(self, word: str) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        self._guard.stdin.write(word)
        self._guard.stdin.flush()
        self._read_pid()

    def _read_pid(self) -> None:
        assert self._guard is not None
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline() or 0) or None

    def _wait_until(self, answers: Callable[[], bool]) -> None:
        assert self._guard is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers():
            if self._guard.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                raise ServerUnavailable(f"{self!r} did not start. It wrote: {self._log.read()}")
            time.sleep(0.02)


def _open_directory() -> str:
    """A directory for temporary files that every user can enter."""
    choices = [Path(tempfile.gettempdir()), *map(Path, ("/tmp", "/var/tmp", "/dev/shm"))]
    for choice in filter(Path.is_dir, choices):
        if all(each.stat().st_mode & 0o001 for each in (choice, *choice.resolve().parents)):
            return str(choice)
    raise ServerUnavailable("Other users can enter none of " + ", ".join(map(str, choices)))


def is_root() -> bool:
    return os.geteuid() == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
