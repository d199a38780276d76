"""Faults at random, side by side where they do not disturb the same."""

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence

from benchmarks import report
from benchmarks.faults.kinds import Kind, Scene


class Storm:
    """Use it as a context manager: at its end every fault has come to its own.

    `happened` counts them by their kinds. Raises at the end what a fault could not do.
    """

    def __init__(self, scene: Scene, kinds: Sequence[Kind]) -> None:
        self.happened: Counter[str] = Counter()
        self._scene = scene
        self._kinds = [kind for kind in kinds if kind.is_possible(scene)]
        self._subjects: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._errors: list[Exception] = []

    def __enter__(self) -> "Storm":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise ExceptionGroup("Faults that could not happen", self._errors)

    def blow(
        self, *, every_s: tuple[float, float], faults: float = math.inf, seconds: float = math.inf
    ) -> None:
        """Begin so many faults, one in `every_s` seconds, until the time is over."""
        until, number = time.monotonic() + seconds, 0
        while number < faults and time.monotonic() < until:
            time.sleep(random.uniform(*every_s))
            if name := self.strike():
                number += 1
                report.say(f"fault {number}: {name}")

    def strike(self) -> str | None:
        """Begin a fault; its kind. None where everything is disturbed already."""
        calm = [kind for kind in self._kinds if kind.subject not in self._subjects]
        if not calm:
            return None
        (kind,) = random.choices(calm, [kind.weight for kind in calm])
        self._subjects.add(kind.subject)
        thread = threading.Thread(target=self._last, args=(kind, kind.duration_s()))
        thread.start()
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        return kind.name

    def _last(self, kind: Kind, seconds: float) -> None:
        try:
            with kind.begin(self._scene):
                self.happened[kind.name] += 1
                time.sleep(seconds)
        except Exception as error:
            error.add_note(kind.name)
            self._errors.append(error)
        finally:
            self._subjects.discard(kind.subject)
