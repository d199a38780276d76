"""The lock that keeps a singleton alone: in the cache's Redis, or in the database.

A courtesy, not an authority: a Redis that fails over may let two in. That one invocation does not
run twice at once is the claim's business.
"""

import contextlib
import hashlib
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
"""Before a singleton asks again for a lock that could not be asked for."""


class SingletonLocks:
    """Takes without waiting, holds for a time at most, is released by its owner only."""

    def __init__(self, table: LockTable, *, cache_alias: Callable[[], str]) -> None:
        self._table = table
        self._cache_alias = cache_alias

    @contextlib.contextmanager
    def hold(self, key: str, *, timeout_s: float) -> Iterator[None]:
        """Held in the body.

        Raises SingletonLockError, a redis.exceptions.LockError, where another holds it, and
        SingletonLockUnknown where Redis can't be asked.
        """
        client = _redis_client(caches[self._cache_alias()])
        lock = _in_redis(client, key, timeout_s) if client else self._in_database(key, timeout_s)
        with lock:
            yield

    @contextlib.contextmanager
    def _in_database(self, key: str, timeout_s: float) -> Iterator[None]:
        digest, token = hashlib.sha256(key.encode()).hexdigest(), uuid.uuid4()
        if not self._table.acquire(digest, token, timeout=timedelta(seconds=timeout_s)):
            raise _taken(key)
        try:
            yield
        finally:
            self._table.release(digest, token)


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
        # What the task has done stands, whatever has become of its lock, which runs out by itself.
        try:
            lock.release()
        except LockError:
            logger.info("%s had run out before its run had ended", key)
        except RedisError:
            logger.warning("%s can't be released and runs out", key, exc_info=True)


def _redis_client(cache: Any) -> Any | None:
    """The Redis client of Django's own RedisCache or of django-redis; None for other caches."""
    if hasattr(cache, "client") and hasattr(cache.client, "get_client"):
        return cache.client.get_client(write=True)
    inner: Any = getattr(cache, "_cache", None)
    return inner.get_client(write=True) if hasattr(inner, "get_client") else None


def _taken(key: str) -> Exception:
    from .lock_error import SingletonLockError

    return SingletonLockError(f"{key} is held by another run.")
