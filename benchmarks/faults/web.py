"""The web process that takes the orders: killed now and then, and started again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contest import Contestant, ContestantEnded


class Web:
    """`module` is the contestant that takes orders; see Contestant for `log`."""

    def __init__(
        self,
        module: str,
        python: Path,
        environment: Mapping[str, str],
        *,
        log: Path | None = None,
    ) -> None:
        self.kills = 0
        self._module = module
        self._python = python
        self._environment = environment
        self._log = log
        self._current = self._make()

    def take_orders(self, orders: int, **options: Any) -> None:
        """All of them, in as many processes as it takes."""
        while True:
            with self._current:
                try:
                    self._current.ask("take_orders", up_to=orders, **options)
                except ContestantEnded:
                    self._current = self._make()
                else:
                    return

    def kill(self) -> None:
        """SIGKILL, in whatever it does."""
        self._current.kill()
        self.kills += 1

    def _make(self) -> Contestant:
        return Contestant(self._module, self._python, self._environment, log=self._log)
