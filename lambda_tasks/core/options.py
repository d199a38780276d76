"""A task's options: their defaults, and what is refused at decoration."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from .retries import MAX_DELAY_S, RetryRule

ExceptionTypes = tuple[type[BaseException], ...]


class OptionNames(TypedDict, total=False):
    """What `@lambda_task(...)` takes, for type checkers; TaskOptions tells the meaning."""

    soft_timeout: float | None
    hard_timeout: float | None
    queue: str
    delay: int
    ignore_errors: ExceptionTypes
    retry_on: ExceptionTypes
    retry_delay: float
    retry_backoff: float
    max_retries: int | None
    singleton: bool
    singleton_by: tuple[str, ...]
    retry_singleton: bool
    durable: bool | None
    atomic: bool
    on_lost: Literal["rerun", "fail"]
    aliases: tuple[str, ...]
    takes_context: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one task. Times are in seconds; None means that a setting decides."""

    soft_timeout: float | None = None
    """SoftTimeLimitExceeded is raised inside the task after so long; less than hard_timeout."""
    hard_timeout: float | None = None
    """The task is ended after so long; up to 900 on a queue that Lambda consumes."""
    queue: str = "default"
    """A key of LAMBDA_TASKS_QUEUES."""
    delay: int = 0
    """Before the message becomes visible, 0 to 900."""
    ignore_errors: ExceptionTypes = ()
    """End the task as SUCCESS, with the traceback kept and its writes rolled back."""
    retry_on: ExceptionTypes = ()
    """Enqueue a new invocation."""
    retry_delay: float = 0
    """Before a retry, 0 to 900; 1 to 5 s of jitter are always added."""
    retry_backoff: float = 1.0
    """The factor by which retry_delay grows with each retry; at least 1."""
    max_retries: int | None = None
    singleton: bool = False
    """At most one running at a time, by a lock."""
    singleton_by: tuple[str, ...] = ()
    """Names of parameters that become part of the lock's key."""
    retry_singleton: bool = True
    """What lock contention does: it waits, or (False) ends as SUCCESS with the traceback kept."""
    durable: bool | None = None
    """Store the message in the caller's transaction."""
    atomic: bool = True
    """Run inside transaction.atomic()."""
    on_lost: Literal["rerun", "fail"] = "rerun"
    """What a worker's death does."""
    aliases: tuple[str, ...] = ()
    """Dotted names under which messages of older releases still arrive."""
    takes_context: bool = False
    """The function also gets `context: TaskContext`."""

    @property
    def retry_rule(self) -> RetryRule:
        """What an exception of the task does, the lock of a singleton that does not wait for it
        among them."""
        ignore_errors = self.ignore_errors
        if self.singleton and not self.retry_singleton:
            from redis.exceptions import LockError

            ignore_errors = (*ignore_errors, LockError)
        return RetryRule(
            ignore_errors=ignore_errors,
            retry_on=self.retry_on,
            retry_delay=self.retry_delay,
            retry_backoff=self.retry_backoff,
        )


def parse_options(
    function: str, options: OptionNames, *, parameters: Collection[str]
) -> TaskOptions:
    """Check the options of a function with these parameters.

    Raises TypeError for what has the wrong kind, ValueError for what is out of range; each names
    the function, the option and the fix.
    """
    _check_names(function, options)
    parsed = TaskOptions(**options)
    _check_exceptions(function, "retry_on", parsed.retry_on)
    _check_exceptions(function, "ignore_errors", parsed.ignore_errors)
    _check_retries(function, parsed)
    _check_singleton(function, parsed, parameters)
    _check_timeouts(function, parsed)
    _check_the_rest(function, parsed)
    return parsed


def _check_names(function: str, options: OptionNames) -> None:
    known = [field.name for field in fields(TaskOptions)]
    for name in options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(known)}."
            raise TypeError(f"{function}: @lambda_task has no option {name!r}.{hint}")


def _check_exceptions(function: str, option: str, value: Any) -> None:
    if not isinstance(value, tuple):
        raise TypeError(f"{function}: {option} is {value!r}. Use a tuple of exception types.")
    for item in value:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise TypeError(f"{function}: {option} holds {item!r}, which is no exception type.")


def _check_retries(function: str, options: TaskOptions) -> None:
    both = set(options.retry_on) & set(options.ignore_errors)
    if both:
        names = ", ".join(sorted(each.__name__ for each in both))
        raise TypeError(f"{function}: {names} stands in retry_on and in ignore_errors. Keep one.")
    _check_range(function, "retry_delay", options.retry_delay, 0, MAX_DELAY_S)
    if options.retry_delay and not options.retry_on:
        raise TypeError(
            f"{function}: retry_delay is {options.retry_delay!r} and retry_on is empty. "
            "Name in retry_on what is to be retried."
        )
    _check_range(function, "retry_backoff", options.retry_backoff, 1, 1000)
    if options.max_retries is not None:
        _check_range(function, "max_retries", options.max_retries, 0, 32_767)


def _check_singleton(function: str, options: TaskOptions, parameters: Collection[str]) -> None:
    unknown = [name for name in options.singleton_by if name not in parameters]
    if unknown:
        raise TypeError(
            f"{function}: singleton_by names {', '.join(map(repr, unknown))}, and there are the "
            f"parameters {', '.join(map(repr, parameters)) or '(none)'}."
        )
    if options.singleton_by and not options.singleton:
        raise TypeError(f"{function}: singleton_by is set without singleton=True.")
    if not options.singleton:
        return
    # Not before a task is a singleton: redis takes a while to import.
    from redis.exceptions import LockError

    for kind in options.retry_on:
        if issubclass(kind, LockError) or issubclass(LockError, kind):
            raise TypeError(
                f"{function}: retry_on holds {kind.__name__}, and a singleton retries a lock that "
                "is taken by itself. Leave it out; retry_singleton=False turns that off."
            )


def _check_timeouts(function: str, options: TaskOptions) -> None:
    for option in ("soft_timeout", "hard_timeout"):
        value = getattr(options, option)
        if value is not None and (not _is_number(value) or value <= 0):
            raise ValueError(f"{function}: {option} is {value!r}. Use seconds, more than 0.")
    soft, hard = options.soft_timeout, options.hard_timeout
    if soft is not None and hard is not None and soft >= hard:
        raise ValueError(
            f"{function}: soft_timeout ({soft}) is not less than hard_timeout ({hard}). A task "
            "needs time between the two to clean up."
        )


def _check_the_rest(function: str, options: TaskOptions) -> None:
    _check_range(function, "delay", options.delay, 0, MAX_DELAY_S)
    if options.on_lost not in ("rerun", "fail"):
        raise ValueError(f"{function}: on_lost is {options.on_lost!r}. Use 'rerun' or 'fail'.")


def _check_range(function: str, option: str, value: Any, least: float, most: float) -> None:
    if not _is_number(value) or not least <= value <= most:
        raise ValueError(f"{function}: {option} is {value!r}. Use {least} to {most}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
