"""A task's options: their defaults, and their checks at decoration."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict

from .foreign_words import suggestion
from .functions import CONTEXT_PARAMETER
from .limits import MAX_LIMIT, Rate
from .retention import Keep, Retention, parse_keep
from .retries import MAX_DELAY_S, RetryRule
from .schedules import Schedule, make_cron
from .unique import (
    OnConflict,
    UniqueBy,
    UniqueTerms,
    UniqueWhile,
    check_duration,
    check_unique,
)

ExceptionTypes = tuple[type[BaseException], ...]


class CommonOptionNames(TypedDict, total=False):
    """The keyword arguments of `@lambda_task(...)`, for type checkers, but for takes_context.

    See TaskOptions.
    """

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
    limit: int | None
    limit_by: tuple[str, ...]
    rate: str | None
    rate_by: tuple[str, ...]
    durable: bool | None
    atomic: bool
    on_lost: Literal["rerun", "fail"]
    aliases: tuple[str, ...]
    schedule: "str | Schedule | Sequence[Schedule]"
    keep_arguments: bool
    keep: "timedelta | float | Mapping[str, timedelta | float | None] | None"
    unique_by: UniqueBy | None
    unique_while: UniqueWhile | None
    unique_for: float | timedelta | None
    on_conflict: OnConflict | None
    expires: float | timedelta | None
    on_success: Any


class OptionNames(CommonOptionNames, total=False):
    """All keyword arguments of `@lambda_task(...)`."""

    takes_context: bool
    workflow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of one task. Times are in seconds; None means that a setting decides."""

    soft_timeout: float | None = None
    """Seconds after which the task raises SoftTimeLimitExceeded; less than hard_timeout."""
    hard_timeout: float | None = None
    """Seconds after which the task is ended; up to 900 on a queue that Lambda consumes."""
    queue: str = "default"
    """Name of the queue in LAMBDA_TASKS_QUEUES."""
    delay: int = 0
    """Seconds before the message becomes visible, 0 to 900."""
    ignore_errors: ExceptionTypes = ()
    """Exceptions that end the task as SUCCESS; the traceback is kept, writes are rolled back."""
    retry_on: ExceptionTypes = ()
    """Exceptions after which a new invocation repeats the task."""
    retry_delay: float = 0
    """Seconds before a retry, 0 to 900; 1 to 5 s of jitter are always added."""
    retry_backoff: float = 1.0
    """The factor by which retry_delay grows with each retry, 1 to 1000."""
    max_retries: int | None = None
    """The most retries, 0 to 32,767."""
    singleton: bool = False
    """Whether a lock lets only one run of the task execute at a time."""
    singleton_by: tuple[str, ...] = ()
    """Names of parameters whose values become part of the lock's key."""
    retry_singleton: bool = True
    """Whether a task that can't get the lock is retried; if not, it ends as SUCCESS."""
    limit: int | None = None
    """The most runs of the task at a time, 1 to 1000; None for any number."""
    limit_by: tuple[str, ...] = ()
    """Names of parameters: the limit holds for each combination of their values."""
    rate: str | None = None
    """The most starts of the task in a time, evenly spaced, like "10/m"; None for any number."""
    rate_by: tuple[str, ...] = ()
    """Names of parameters: the rate holds for each combination of their values."""
    durable: bool | None = None
    """Whether the message is stored in the caller's transaction."""
    atomic: bool = True
    """Whether the task runs inside transaction.atomic()."""
    on_lost: Literal["rerun", "fail"] = "rerun"
    """The consequence of a worker's death: the task runs again, or fails."""
    aliases: tuple[str, ...] = ()
    """Dotted names under which messages of older releases still arrive."""
    schedule: str | Schedule | Sequence[Schedule] = ()
    """A cron expression, or what lambda_tasks.schedules makes, or several of these."""
    keep: Keep = field(default_factory=dict)
    """How long cleanup_task_records keeps the records: a time span or days, None for ever, or a
    dict with one of these for a status. For other statuses the setting LAMBDA_TASKS_KEEP decides.
    """
    keep_arguments: bool = True
    """Whether records keep the arguments after SUCCESS, and FAILED ones after a while."""
    unique_by: UniqueBy | None = None
    """Names of parameters: a call joins an earlier one with the same values. "all" means all of
    them, and () none, so that all calls are equal."""
    unique_while: UniqueWhile | None = None
    """The time that an earlier call counts: "queued", until a worker claims it, or "unfinished",
    the default, until it has ended."""
    unique_for: float | timedelta | None = None
    """Seconds that a call counts at least, from when it is due, unless it fails."""
    on_conflict: OnConflict | None = None
    """What a call does that finds an earlier one: "return" it, the default; "replace" its arguments
    and times, while it is queued; or "raise" UniqueConflict."""
    expires: float | timedelta | None = None
    """Seconds from when a call is due; if it has not begun by then, it is CANCELLED."""
    on_success: Any = None
    """Another task, without arguments, which is enqueued in the transaction of each success."""
    takes_context: bool = False
    """Whether the function gets `context: TaskContext`, too."""
    workflow: bool = False
    """Whether it is a durable function, which gets `workflow: WorkflowContext`."""

    @property
    def retention(self) -> Retention:
        """How long the records of the task are kept, for the statuses that `keep` names."""
        return parse_keep("keep", self.keep)

    @property
    def unique(self) -> UniqueTerms | None:
        """The terms on which calls are unique; None where they are not."""
        if self.unique_by is None:
            return None
        return check_unique(
            "",
            by=self.unique_by,
            held_while=self.unique_while,
            held_for=self.unique_for,
            on_conflict=self.on_conflict,
            parameters=None,
        )

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """The schedules of the task."""
        if isinstance(self.schedule, str):
            return (Schedule(rule=make_cron(self.schedule, "")),)
        return (self.schedule,) if isinstance(self.schedule, Schedule) else tuple(self.schedule)

    @property
    def waits_in_row(self) -> bool:
        """Whether a call may have to wait in its row, so that it is always durable."""
        return self.limit is not None or self.rate is not None

    @property
    def retry_rule(self) -> RetryRule:
        """The rule for exceptions of the task, including a singleton's lock that it can't get."""
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
    """Check the options of a function with these parameters, and return them.

    Raises TypeError for a value of the wrong kind, and ValueError for one out of range. The error
    names the function, the option and the fix.
    """
    _check_names(function, options)
    _check_kinds(function, options)
    parsed = TaskOptions(**options)
    _check_exceptions(function, "retry_on", parsed.retry_on)
    _check_exceptions(function, "ignore_errors", parsed.ignore_errors)
    _check_retries(function, parsed)
    _check_singleton(function, parsed, parameters)
    _check_limits(function, parsed, parameters)
    _check_timeouts(function, parsed)
    _check_delay_and_on_lost(function, parsed)
    _check_schedule(function, parsed)
    _check_keep(function, parsed)
    parse_unique(function, parsed, parameters)
    _check_expires(function, parsed)
    _check_on_success(function, parsed)
    return _durable(function, options, parsed) if parsed.workflow else parsed


def _durable(function: str, given: OptionNames, options: TaskOptions) -> TaskOptions:
    """Return the options of a durable function, whose transactions are those of its steps."""
    if given.get("atomic"):
        raise TypeError(
            f"{function}: atomic=True is set with workflow=True. Each step of a durable function "
            "is a transaction: remove `atomic`."
        )
    if options.durable is False:
        raise TypeError(
            f"{function}: durable=False is set with workflow=True. A durable function is stored: "
            "remove `durable`."
        )
    if options.takes_context:
        raise TypeError(
            f"{function}: takes_context=True is set with workflow=True. Use `workflow.context`."
        )
    return replace(options, atomic=False)


def _check_names(function: str, options: OptionNames) -> None:
    known = [each.name for each in fields(TaskOptions)]
    for name in options:
        if name not in known:
            hint = suggestion(name, known)
            raise TypeError(f"{function}: @lambda_task has no option {name!r}.{hint}")


def _check_kinds(function: str, options: OptionNames) -> None:
    for option, value in options.items():
        is_right, words = _KINDS.get(option, (None, ""))
        if is_right is not None and not is_right(value):
            raise TypeError(f"{function}: {option} is {value!r}. Use {words}.")


def _check_exceptions(function: str, option: str, value: Any) -> None:
    if not isinstance(value, tuple):
        raise TypeError(f"{function}: {option} is {value!r}. Use a tuple of exception types.")
    for item in value:
        if not (isinstance(item, type) and issubclass(item, BaseException)):
            raise TypeError(f"{function}: {option} holds {item!r}. Use exception types only.")


def _check_retries(function: str, options: TaskOptions) -> None:
    both = set(options.retry_on) & set(options.ignore_errors)
    if both:
        names = ", ".join(sorted(each.__name__ for each in both))
        raise TypeError(f"{function}: {names} is in both retry_on and ignore_errors. Keep one.")
    _check_range(function, "retry_delay", options.retry_delay, 0, MAX_DELAY_S)
    if options.retry_delay and not options.retry_on:
        raise TypeError(
            f"{function}: retry_delay is {options.retry_delay!r}, but retry_on is empty. "
            "Add the exceptions to retry to retry_on."
        )
    _check_range(function, "retry_backoff", options.retry_backoff, 1, 1000)
    if options.retry_backoff != 1 and not options.retry_delay:
        raise TypeError(
            f"{function}: retry_backoff is {options.retry_backoff!r}, but retry_delay is 0 and "
            "would never grow. Set retry_delay, too."
        )
    if options.max_retries is not None:
        _check_range(function, "max_retries", options.max_retries, 0, 32_767)


def _check_parameters(
    function: str, option: str, names: Collection[str], parameters: Collection[str]
) -> None:
    unknown = [name for name in names if name not in parameters]
    if unknown:
        raise TypeError(
            f"{function}: {option} names {', '.join(map(repr, unknown))}. Use parameters of "
            f"the function: {', '.join(map(repr, parameters)) or '(none)'}."
        )


def _check_limits(function: str, options: TaskOptions, parameters: Collection[str]) -> None:
    _check_parameters(function, "limit_by", options.limit_by, parameters)
    _check_parameters(function, "rate_by", options.rate_by, parameters)
    if options.limit is not None:
        _check_range(function, "limit", options.limit, 1, MAX_LIMIT)
    if options.rate is not None:
        try:
            Rate.parse(options.rate)
        except ValueError as error:
            raise ValueError(f"{function}: {error}") from None
    for by, option in (("limit_by", "limit"), ("rate_by", "rate")):
        if getattr(options, by) and getattr(options, option) is None:
            raise TypeError(f"{function}: {by} is set without {option}. Set both.")
    if options.singleton and options.limit is not None:
        raise TypeError(
            f"{function}: both singleton and limit are set. A singleton is a limit of 1: keep one."
        )
    if options.waits_in_row and options.durable is False:
        option = "limit" if options.rate is None else "rate"
        raise TypeError(
            f"{function}: {option} is set with durable=False. What has to wait for its turn waits "
            "in its row, which a direct message does not have. Remove one of the two."
        )


def check_not_secret(function: str, options: TaskOptions, secret: Collection[str]) -> None:
    """Raise TypeError where a limit or a rate is by an argument that is secret."""
    for option in ("limit_by", "rate_by"):
        if names := [name for name in getattr(options, option) if name in secret]:
            raise TypeError(
                f"{function}: {option} names {', '.join(map(repr, names))}, which is secret. Its "
                "value would be kept in the key of the limit. Use another parameter, such as an id."
            )


def _check_singleton(function: str, options: TaskOptions, parameters: Collection[str]) -> None:
    _check_parameters(function, "singleton_by", options.singleton_by, parameters)
    if options.singleton_by and not options.singleton:
        raise TypeError(f"{function}: singleton_by is set without singleton=True. Set both.")
    if not options.singleton:
        return
    # Imported only for singletons, because the import of redis is slow.
    from redis.exceptions import LockError

    for kind in options.retry_on:
        if issubclass(kind, LockError) or issubclass(LockError, kind):
            raise TypeError(
                f"{function}: retry_on holds {kind.__name__}, but a singleton already retries when "
                "its lock is held. Remove it; retry_singleton=False turns those retries off."
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


def _check_delay_and_on_lost(function: str, options: TaskOptions) -> None:
    _check_range(function, "delay", options.delay, 0, MAX_DELAY_S)
    if options.on_lost not in ("rerun", "fail"):
        raise ValueError(f"{function}: on_lost is {options.on_lost!r}. Use 'rerun' or 'fail'.")


def _check_schedule(function: str, options: TaskOptions) -> None:
    given = options.schedule
    several = given if isinstance(given, list | tuple) else [given]
    if not isinstance(given, str) and not all(isinstance(each, Schedule) for each in several):
        raise TypeError(
            f"{function}: schedule is {given!r}. Use a cron expression, or cron(), every() or at() "
            "of lambda_tasks.schedules, or a list of these."
        )
    try:
        names = [each.name for each in options.schedules]
    except ValueError as error:
        raise ValueError(f"{function}: schedule: {error}") from None
    if len(names) != len(set(names)):
        raise ValueError(
            f"{function}: {len(names)} schedules have the names {names!r}. Give each a name of its "
            "own."
        )


def _check_keep(function: str, options: TaskOptions) -> None:
    try:
        parse_keep("keep", options.keep)
    except ValueError as error:
        raise ValueError(f"{function}: {error}") from None


def parse_unique(
    function: str, options: TaskOptions, parameters: Collection[str]
) -> UniqueTerms | None:
    """Check the options of unique calls, and return their terms. Raises as parse_options()."""
    terms = check_unique(
        function,
        by=options.unique_by,
        held_while=options.unique_while,
        held_for=options.unique_for,
        on_conflict=options.on_conflict,
        parameters=[
            name for name in parameters if not (options.takes_context and name == CONTEXT_PARAMETER)
        ],
    )
    if terms is not None and options.durable is False:
        raise TypeError(
            f"{function}: unique_by is set with durable=False. The row of a call holds its key, "
            "and a direct message has none. Remove durable=False."
        )
    return terms


def _check_on_success(function: str, options: TaskOptions) -> None:
    other = options.on_success
    if other is None:
        return
    if not hasattr(other, "stored_call"):
        raise TypeError(
            f"{function}: on_success is {other!r}. Use another @lambda_task, itself and not a call."
        )
    if other.options.unique_by is not None or other.options.durable is False:
        raise TypeError(
            f"{function}: on_success is {other.name}, whose calls are unique or have no record. "
            "Use a task without unique_by and durable=False."
        )


def _check_expires(function: str, options: TaskOptions) -> None:
    if options.expires is not None:
        check_duration(function, "expires", options.expires)


def _check_range(function: str, option: str, value: Any, minimum: float, maximum: float) -> None:
    if not _is_number(value) or not minimum <= value <= maximum:
        raise ValueError(f"{function}: {option} is {value!r}. Use {minimum} to {maximum}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _are_names(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_name, value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


_KINDS: Final[Mapping[str, tuple[Callable[[object], bool], str]]] = {
    "queue": (_is_name, "the name of one queue, as a str"),
    "delay": (_is_whole, "whole seconds"),
    "max_retries": (lambda value: value is None or _is_whole(value), "a whole number"),
    "singleton": (_is_flag, "True or False"),
    "singleton_by": (_are_names, "a tuple of names of parameters, like ('order_id',)"),
    "retry_singleton": (_is_flag, "True or False"),
    "limit": (lambda value: value is None or _is_whole(value), "a whole number"),
    "limit_by": (_are_names, "a tuple of names of parameters, like ('tenant_id',)"),
    "rate_by": (_are_names, "a tuple of names of parameters, like ('tenant_id',)"),
    "durable": (lambda value: value is None or _is_flag(value), "True or False"),
    "atomic": (_is_flag, "True or False"),
    "aliases": (_are_names, "a tuple of dotted names, like ('shop.old.charge',)"),
    "keep_arguments": (_is_flag, "True or False"),
    "takes_context": (_is_flag, "True or False"),
    "workflow": (_is_flag, "True or False"),
}
"""The kinds of the options' values, each as a test and in words."""
