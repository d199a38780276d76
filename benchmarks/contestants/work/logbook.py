"""A file in which tasks note when they begin and end: no fault of a database reaches it.

BENCHMARK_LOGBOOK names it. Each line is whole, as it is written at once.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Final

BEGUN: Final = "begun"
DONE: Final = "done"
STRUCK: Final = "struck"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `at` is in seconds since the epoch."""

    number: int
    what: str
    at: float


def note(number: int, what: str) -> None:
    """Write down that the task of an order has begun, or is done."""
    entry = Entry(number, what, time.time())
    os.write(_descriptor(), (json.dumps(asdict(entry)) + "\n").encode())


def read(path: Path) -> Iterator[Entry]:
    """Everything that all processes have noted."""
    with path.open() as lines:
        for line in lines:
            yield Entry(**json.loads(line))


@cache
def _descriptor() -> int:
    path = os.environ["BENCHMARK_LOGBOOK"]
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
