"""The exceptions of the time limits, for tasks to import."""

from .errors import HardTimeLimitExceeded, SoftTimeLimitExceeded

__all__ = ["HardTimeLimitExceeded", "SoftTimeLimitExceeded"]
