"""The rule for a task's exceptions: ignore, retry or fail; and the delay and id of a retry."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from ..errors import Retry

MAX_DELAY_S: Final = 900
"""The longest DelaySeconds that SQS accepts (SendMessage, Amazon SQS API reference)."""

JITTER_S: Final = (1.0, 5.0)
"""The range of random seconds in each retry's delay, so that joint failures don't retry at once."""


_Types = type[BaseException] | tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """The options of a task that decide what follows from an exception."""

    ignore_errors: tuple[type[BaseException], ...] = ()
    retry_on: tuple[type[BaseException], ...] = ()
    retry_delay: float = 0.0
    """Seconds before the first retry, 0 to 900."""
    retry_backoff: float = 1.0
    """The factor by which the delay grows with each retry, 1 to 1000."""

    def ignores(self, error: BaseException) -> bool:
        """Return whether the task ends as SUCCESS despite the error.

        An exception group that is not named itself is ignored if each error in it is.
        """
        return _is_each(error, self.ignore_errors)

    def retries(self, error: BaseException) -> bool:
        """Return whether a new invocation repeats the task; for a group as in ignores()."""
        return _is_each(error, (Retry, *self.retry_on))

    def delay_s(self, error: BaseException, *, n_retries: int, jitter_s: float) -> float:
        """Return the seconds before the retry that follows the `n_retries`-th one, with jitter.

        At most MAX_DELAY_S, unless the task asks for a longer delay with `Retry`.
        """
        if isinstance(error, Retry) and error.delay is not None:
            return error.delay + jitter_s
        return min(self._base_delay_s(n_retries) + jitter_s, MAX_DELAY_S)

    def _base_delay_s(self, n_retries: int) -> float:
        try:
            return self.retry_delay * self.retry_backoff**n_retries
        except OverflowError:
            return MAX_DELAY_S


def as_retry(error: BaseException) -> BaseException:
    """Return the Retry that an exception group stands for, or the error itself.

    A group does if each error in it is a Retry, as one that is raised in an asyncio.TaskGroup. The
    longest of their delays counts.
    """
    if not isinstance(error, BaseExceptionGroup) or not _is_each(error, Retry):
        return error
    leaves = [each for each in errors_in(error) if isinstance(each, Retry)]
    retry = max(leaves, key=lambda each: each.delay or 0.0)
    requested = Retry(str(retry), delay=retry.delay)
    requested.__cause__ = error
    return requested


def errors_in(error: BaseException) -> list[BaseException]:
    """Return the errors of an exception group and of the groups in it, or the error alone."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for each in error.exceptions for leaf in errors_in(each)]


def _is_each(error: BaseException, types: _Types) -> bool:
    return isinstance(error, types) or all(isinstance(each, types) for each in errors_in(error))


def continuation_id(invocation_id: UUID, token: UUID) -> UUID:
    """Return the id of the invocation that continues this one; derived like that of a retry."""
    return uuid5(token, f"continue {invocation_id}")


def retry_id(invocation_id: UUID, token: UUID) -> UUID:
    """Return the id of the invocation that retries this one.

    It is derived, so that the record of this invocation leads to it. `token` is that of the claim
    that ended this invocation. Messages don't show it: somebody who could guess the id from
    messages could store the record of another task in its place.
    """
    return uuid5(token, f"retry {invocation_id}")
