"""What a singleton meets that is not alone. Apart from the other errors, as redis takes long to
import."""

from redis.exceptions import LockError


class SingletonLockError(LockError):
    """Another run of the singleton holds its lock; this one has not begun."""
