"""The exceptions of the time limits, where tasks import them from."""

from .errors import HardTimeLimitExceeded, SoftTimeLimitExceeded

__all__ = ["HardTimeLimitExceeded", "SoftTimeLimitExceeded"]
