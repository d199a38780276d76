"""The shift of the relay, which one process of the system has at a time."""

import uuid
from datetime import timedelta
from uuid import UUID

from ..ports import ShiftAnswer
from .database import statements
from .retrying import with_retries


class RecordRelayShifts:
    """See ports.ShiftTable."""

    def ask(self, *, lasts: timedelta, weight: float, always: bool = False) -> ShiftAnswer:
        """See ports.ShiftTable."""
        return _ask(uuid.uuid4(), lasts=lasts, weight=weight, always=always)


@with_retries
def _ask(own_token: UUID, *, lasts: timedelta, weight: float, always: bool) -> ShiftAnswer:
    """Ask. A retry finds the shift that an earlier try has taken, by its token."""
    token, n_asked, n_asked_before, next_at, now = statements().take_shift(
        own_token, lasts=lasts, weight=weight, always=always
    )
    return ShiftAnswer(
        is_granted=token == own_token,
        left_s=max((next_at - now).total_seconds(), 0.0),
        n_asking=max(n_asked, n_asked_before),
    )
