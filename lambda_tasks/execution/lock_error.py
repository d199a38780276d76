"""The error of a singleton that meets another run of itself.

It is not in `errors`, because it imports redis, and that takes long.
"""

from redis.exceptions import LockError


class SingletonLockError(LockError):
    """Another run of the singleton holds the lock. This one has not started."""
