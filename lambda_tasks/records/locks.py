"""The locks of singletons, if the cache of LAMBDA_TASKS_SINGLETON_CACHE is not Redis."""

from datetime import timedelta
from uuid import UUID

from .clock import Now
from .database import record_alias
from .retrying import with_retries
from .tables import SingletonLock


class RecordLocks:
    """See ports.LockTable."""

    @with_retries
    def acquire(self, key: str, token: UUID, *, timeout: timedelta) -> bool:
        """See ports.LockTable."""
        locks = SingletonLock.objects.using(record_alias())
        locks.filter(key=key, held_until__lt=Now()).delete()
        # If several insert at once, the primary key lets one win, and the token tells which one.
        locks.bulk_create(
            [SingletonLock(key=key, token=token, held_until=Now() + timeout)], ignore_conflicts=True
        )
        return locks.filter(key=key, token=token).exists()

    @with_retries
    def release(self, key: str, token: UUID) -> None:
        """See ports.LockTable."""
        SingletonLock.objects.using(record_alias()).filter(key=key, token=token).delete()
