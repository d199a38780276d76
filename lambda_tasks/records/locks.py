"""The locks of singletons and schedules that are taken by a run itself: each is a place of its key.

Redis has them instead where the cache of LAMBDA_TASKS_SINGLETON_CACHE is Redis.
"""

from datetime import timedelta
from uuid import UUID

from .clock import Now
from .database import record_alias
from .limits import digest, hand_over
from .retrying import with_retries
from .tables import LimitPlace


class RecordLocks:
    """See ports.LockTable."""

    @with_retries
    def acquire(self, key: str, token: UUID, *, timeout: timedelta) -> bool:
        """See ports.LockTable."""
        places = LimitPlace.objects.using(record_alias()).filter(key=digest(key))
        places.filter(held_until__lt=Now()).delete()
        # If several insert at once, the primary key lets one win, and the token tells which one.
        place = LimitPlace(
            key=digest(key), number=0, record_id=token, token=token, held_until=Now() + timeout
        )
        places.bulk_create([place], ignore_conflicts=True)
        return places.filter(token=token).exists()

    @with_retries
    def release(self, key: str, token: UUID) -> None:
        """See ports.LockTable. The relay sends the message of the record that waits for it."""
        hand_over({digest(key): 1}, {(token, token)}, sends=lambda queue: False)
