"""The signatures of requests that were used, each a row until it is no longer valid.

Whoever inserts the row is the first with this signature.
"""

import hashlib
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from .clock import Now
from .database import record_alias
from .retrying import with_retries
from .tables import UsedSignature

MAX_FORGOTTEN: Final = 100
"""Expired rows that one use deletes: more than it adds, and few enough to hold up nobody."""


def use_once(signature: str, remembered: timedelta) -> bool:
    """Return whether a signature is used for the first time, and remember it for a while."""
    key = hashlib.sha256(signature.encode()).hexdigest()
    _forget_expired()
    return _remember(key, uuid4(), remembered)


@with_retries
def _remember(key: str, token: UUID, remembered: timedelta) -> bool:
    """Insert a row, and return whether it is there. A retry finds the row of an earlier try."""
    used = UsedSignature.objects.using(record_alias())
    row = UsedSignature(key=key, token=token, kept_until=Now() + remembered)
    used.bulk_create([row], ignore_conflicts=True)
    return used.filter(key=key, token=token).exists()


@with_retries
def _forget_expired() -> None:
    used = UsedSignature.objects.using(record_alias())
    expired = used.filter(kept_until__lt=Now()).values_list("pk", flat=True)[:MAX_FORGOTTEN]
    if keys := list(expired):
        used.filter(pk__in=keys, kept_until__lt=Now()).delete()
