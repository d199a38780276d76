"""The signatures of requests that were used, each a row until it is no longer valid.

They are locks that nobody releases: whoever gets one is the first with this signature.
"""

import hashlib
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from .clock import Now
from .database import record_alias
from .retrying import with_retries
from .tables import SingletonLock

MAX_FORGOTTEN: Final = 100
"""Expired locks that one use deletes: more than it adds, and few enough to hold up nobody."""


def use_once(signature: str, remembered: timedelta) -> bool:
    """Return whether a signature is used for the first time, and remember it for a while."""
    key = hashlib.sha256(b"lambda_tasks request\n" + signature.encode()).hexdigest()
    _forget_expired()
    return _remember(key, uuid4(), remembered)


@with_retries
def _remember(key: str, token: UUID, remembered: timedelta) -> bool:
    """Insert a row, and return whether it is there. A retry finds the row of an earlier try."""
    locks = SingletonLock.objects.using(record_alias())
    lock = SingletonLock(key=key, token=token, held_until=Now() + remembered)
    locks.bulk_create([lock], ignore_conflicts=True)
    return locks.filter(key=key, token=token).exists()


@with_retries
def _forget_expired() -> None:
    """Delete locks that are over, which nobody else may come to delete."""
    locks = SingletonLock.objects.using(record_alias())
    expired = locks.filter(held_until__lt=Now()).values_list("pk", flat=True)[:MAX_FORGOTTEN]
    if keys := list(expired):
        locks.filter(pk__in=keys, held_until__lt=Now()).delete()
