"""Which claims outlived their leases: those of who had died with them, or stood still."""

import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self

from tests.servers.stranger import Claim, Stranger

LOOK_EVERY_S: Final = 0.3
"""Often enough to see each in its last second."""


class LapsedLeases:
    """Use it as a context manager, in whose body it looks. `counts` is by the ids of records."""

    def __init__(self, stranger: Stranger) -> None:
        self.counts: Counter[str] = Counter()
        self._stranger = stranger
        self._lapsed: set[tuple[str, str]] = set()
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._looking.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._looking.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            with suppress(Exception):  # the server is down, or takes no more connections
                self._note(self._stranger.claims())

    def _note(self, claims: Mapping[str, Claim]) -> None:
        for id, claim in claims.items():
            if claim.is_over and (id, claim.token) not in self._lapsed:
                self._lapsed.add((id, claim.token))
                self.counts[id] += 1
