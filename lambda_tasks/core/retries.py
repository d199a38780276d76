"""What follows when a task raises: ignored, retried or failed; and the retry's delay and id."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from ..errors import Retry

MAX_DELAY_S: Final = 900
"""The longest DelaySeconds that SQS takes (SendMessage, Amazon SQS API reference)."""

JITTER_S: Final = (1.0, 5.0)
"""Always added to a retry's delay, so that what failed together does not come back together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """A task's options that decide what an exception does. Delays are in seconds."""

    ignore_errors: tuple[type[BaseException], ...] = ()
    retry_on: tuple[type[BaseException], ...] = ()
    retry_delay: float = 0.0
    retry_backoff: float = 1.0

    def ignores(self, error: BaseException) -> bool:
        """The task ends as SUCCESS all the same."""
        return isinstance(error, self.ignore_errors)

    def retries(self, error: BaseException) -> bool:
        """The task is to run again."""
        return isinstance(error, (Retry, *self.retry_on))

    def delay_s(self, error: BaseException, *, n_retries: int, jitter_s: float) -> float:
        """Seconds before the retry that follows the `n_retries`-th one, jitter included.

        What the task itself asks for is kept, however long.
        """
        if isinstance(error, Retry) and error.delay is not None:
            return error.delay + jitter_s
        return min(self._base_delay_s(n_retries) + jitter_s, MAX_DELAY_S)

    def _base_delay_s(self, n_retries: int) -> float:
        try:
            return self.retry_delay * self.retry_backoff**n_retries
        except OverflowError:
            return MAX_DELAY_S


def continuation_id(invocation_id: UUID, token: UUID) -> UUID:
    """The id of the invocation that goes on where this one stopped; derived as a retry's is."""
    return uuid5(token, f"continue {invocation_id}")


def retry_id(invocation_id: UUID, token: UUID) -> UUID:
    """The id of the invocation that follows this one: derived, so that its record finds it.

    By the token of the claim that has ended this one, which nobody knows who sees only messages:
    whoever guessed the id could put a record of another task in its place.
    """
    return uuid5(token, f"retry {invocation_id}")
