"""The grace of a deployment: how long what this release can't run waits for another release."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from .lifecycle import Raised

DEPLOYMENT_GRACE_S: Final = 3600
"""The grace in seconds, unless the settings say otherwise."""

RECEIVE_WAITS: Final = (1 / 60, 4 / 60, 15 / 60, 40 / 60)
"""The waits after the first four receives of a message, as fractions of the grace: 1, 4, 15 and 40
minutes of an hour. Together they are the whole grace, so that the fifth receive ends it: with the
usual maxReceiveCount of 5, SQS dead-letters nothing earlier."""

ROW_WAITS: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 2, 4, 8, 15))
"""The waits of a message in its row; the last one repeats."""


def receive_wait_s(receives: int, *, grace_s: float, left_s: float) -> float:
    """Return the seconds before a message that was received `receives` times is visible again.

    `left_s` are the seconds of the grace that are left.
    """
    if receives <= len(RECEIVE_WAITS):
        return RECEIVE_WAITS[receives - 1] * grace_s
    return max(left_s, 0.0)


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that this release can't run, and its grace."""

    is_first: bool
    """Whether nobody has refused it before, since it was last run."""
    left_s: float
    """Seconds of the grace that are left. If there are none, the record is FAILED now."""
    wait_s: float = 0.0
    """Seconds before it is due again, if it waits in its row."""

    @property
    def is_over(self) -> bool:
        """Whether nobody has run it for the whole grace."""
        return self.left_s <= 0


def failure_of(reason: Raised, grace_s: float) -> Raised:
    """Return why a record is FAILED that nobody has run for the whole grace."""
    return Raised(
        reason.exception_class,
        f"No release could run it for {grace_s:,.0f} s (LAMBDA_TASKS_DEPLOYMENT_GRACE). "
        f"{reason.traceback}",
    )
