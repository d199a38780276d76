"""A message through each queue: it was stored, sent, delivered and run, or it was not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .findings import Found, check

TASK: Final = "lambda_tasks.tasks.answer_doctor"
"""The task that only answers."""


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A call through a queue, and why it has not succeeded."""

    queue: str
    failure: str | None
    """What has failed; None if nothing has."""

    def __str__(self) -> str:
        return f"queue {self.queue}"


@check(
    "queue.round_trip",
    "error",
    why="What happens to this call happens to every call of the queue.",
)
def arrives(trip: RoundTrip) -> Iterator[Found]:
    """Yield that a call through the queue does not run."""
    if trip.failure is not None:
        yield Found(
            f"A call of {TASK} did not run: {trip.failure}",
            "It runs within the limit. A cold start takes some seconds.",
            "Look at the other findings, and into the log of the function or the worker. "
            "manage.py lambda_tasks list --task " + TASK + " shows where the call is.",
        )


CHECKS: Final = (arrives,)
