"""The web process that takes the orders: killed now and then, and started again."""

from typing import Any

from benchmarks.contest import Contestant, ContestantEnded


class Web:
    """`contestant` is who takes the orders."""

    def __init__(self, contestant: Contestant) -> None:
        self.kills = 0
        self._contestant = contestant

    def take_orders(self, orders: int, **options: Any) -> None:
        """All of them, in as many processes as it takes."""
        while True:
            with self._contestant:
                try:
                    self._contestant.ask("take_orders", up_to=orders, **options)
                except ContestantEnded:
                    continue
                return

    def kill(self) -> None:
        """SIGKILL, in whatever it does."""
        self._contestant.kill()
        self.kills += 1
