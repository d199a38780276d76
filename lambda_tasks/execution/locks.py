"""The locks that runs take themselves, in the cache's Redis or in the database.

Singletons that wait have a place from their claim on instead, unless Redis has their locks.

They are best effort: after a failover of Redis, two runs may hold the same lock. That one
invocation does not run twice at the same time is ensured by its claim.
"""

import contextlib
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

from django.core.cache import caches

from ..errors import SingletonLockUnknown
from ..ports import LockTable

logger = logging.getLogger("lambda_tasks")

OUTAGE_RETRY_S: Final = 15.0
"""Seconds before a singleton tries again while Redis can't be asked for its lock."""


class SingletonLocks:
    """The locks of singletons. See ports.Lock.

    A lock is acquired without waiting, expires after its timeout, and is released by its owner
    only.
    """

    def __init__(self, table: LockTable, *, cache_alias: Callable[[], str]) -> None:
        self._table = table
        self._cache_alias = cache_alias

    @property
    def is_elsewhere(self) -> bool:
        """See ports.Lock."""
        return _redis_client(caches[self._cache_alias()]) is not None

    @contextlib.contextmanager
    def hold(self, key: str, *, timeout_s: float) -> Iterator[None]:
        """Hold the lock in the body, for `timeout_s` seconds at most.

        Raises SingletonLockError, a redis.exceptions.LockError, if another run holds the lock, and
        SingletonLockUnknown if Redis can't be asked.
        """
        cache = caches[self._cache_alias()]
        client = _redis_client(cache)
        with (
            # With the cache's prefix and version, as projects may share a Redis.
            _in_redis(client, cache.make_key(key), timeout_s)
            if client
            else self._in_database(key, timeout_s)
        ):
            yield

    @contextlib.contextmanager
    def _in_database(self, key: str, timeout_s: float) -> Iterator[None]:
        token = uuid.uuid4()
        if not self._table.acquire(key, token, timeout=timedelta(seconds=timeout_s)):
            raise _taken(key)
        try:
            yield
        finally:
            self._table.release(key, token)


@contextlib.contextmanager
def _in_redis(client: Any, key: str, timeout_s: float) -> Iterator[None]:
    from redis.exceptions import LockError, RedisError

    lock = client.lock(key, timeout=timeout_s, blocking=False)
    try:
        is_taken = not lock.acquire()
    except RedisError as error:
        raise SingletonLockUnknown(
            f"Redis can't be asked for {key}.", delay=OUTAGE_RETRY_S
        ) from error
    if is_taken:
        raise _taken(key)
    try:
        yield
    finally:
        # An error here must not change the task's outcome. The lock expires by itself.
        try:
            lock.release()
        except LockError:
            logger.info("The lock %s expired before its run ended", key)
        except RedisError:
            logger.warning(
                "The lock %s can't be released; it expires by itself", key, exc_info=True
            )


def _redis_client(cache: Any) -> Any | None:
    """Return the Redis client of Django's RedisCache or of django-redis; None for other caches."""
    if hasattr(cache, "client") and hasattr(cache.client, "get_client"):
        return cache.client.get_client(write=True)
    inner: Any = getattr(cache, "_cache", None)
    return inner.get_client(write=True) if hasattr(inner, "get_client") else None


def _taken(key: str) -> Exception:
    from .lock_error import SingletonLockError

    return SingletonLockError(f"{key} is held by another run.")
