"""The exceptions of the time limits, for tasks to import."""

from . import predecessor
from .errors import HardTimeLimitExceeded, SoftTimeLimitExceeded

__all__ = ["HardTimeLimitExceeded", "SoftTimeLimitExceeded"]

__getattr__ = predecessor.finder(
    __name__, {"TimeoutContext": "Tasks have soft_timeout and hard_timeout."}
)
