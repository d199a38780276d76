"""Unique calls: which calls are equal, how long one holds its key, and what the next one does."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

ALL: Final = "all"

UniqueBy = tuple[str, ...] | Literal["all"]
"""The parameters whose values make calls equal: some, all, or with `()` none."""

UniqueWhile = Literal["queued", "unfinished"]
OnConflict = Literal["return", "replace", "raise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueTerms:
    """The terms on which the calls of a task are unique."""

    by: UniqueBy
    held_while: UniqueWhile = "unfinished"
    held_for: timedelta | None = None
    """The least time that a call holds its key, from when it is due, unless it fails."""
    on_conflict: OnConflict = "return"

    def until(self, due: datetime) -> datetime | None:
        """Return the time until which a call that is due then holds its key although it ended."""
        return None if self.held_for is None else due + self.held_for


@dataclass(frozen=True, slots=True)
class UniqueCall:
    """A call that is unique."""

    terms: UniqueTerms
    arguments: Mapping[str, Any] = field(repr=False)
    """Its JSON values by name, with the defaults of those that the caller left out."""

    @property
    def text(self) -> str:
        """The arguments that count, as a text that is the same for equal calls."""
        by = self.arguments if self.terms.by == ALL else self.terms.by
        counting = {name: self.arguments.get(name) for name in by}
        return json.dumps(counting, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """The key that a call holds, and how long."""

    key: UUID
    held_while: UniqueWhile = "unfinished"
    until: datetime | None = None
    """The time until which a call that has succeeded keeps the key."""


def check_unique(
    function: str,
    *,
    by: Any,
    held_while: Any,
    held_for: Any,
    on_conflict: Any,
    parameters: Collection[str] | None,
) -> UniqueTerms | None:
    """Check the four options, and return the terms; None for a task whose calls are not unique.

    Without `parameters`, the function takes any name. Raises TypeError for a wrong kind or a
    contradiction, and ValueError for a value out of range.
    """
    if by is None:
        _refuse_without_key(function, held_while, held_for, on_conflict)
        return None
    by = _check_by(function, by, parameters)
    held_while = "unfinished" if held_while is None else held_while
    if held_while not in ("queued", "unfinished"):
        raise ValueError(
            f"{function}: unique_while is {held_while!r}. Use 'queued' (until a worker claims it) "
            "or 'unfinished' (until it has ended)."
        )
    on_conflict = "return" if on_conflict is None else on_conflict
    if on_conflict not in ("return", "replace", "raise"):
        raise ValueError(
            f"{function}: on_conflict is {on_conflict!r}. Use 'return', 'replace' or 'raise'."
        )
    if held_for is not None and held_while == "queued":
        raise TypeError(
            f"{function}: unique_for is set with unique_while='queued', which frees the key before "
            "the run. Remove one of the two."
        )
    if on_conflict == "replace" and held_while != "queued":
        raise TypeError(
            f"{function}: on_conflict='replace' changes a call that has not begun, and with "
            "unique_while='unfinished' it may have. Set unique_while='queued', too."
        )
    return UniqueTerms(
        by=by,
        held_while=held_while,
        held_for=None if held_for is None else check_duration(function, "unique_for", held_for),
        on_conflict=on_conflict,
    )


def _refuse_without_key(function: str, held_while: Any, held_for: Any, on_conflict: Any) -> None:
    given = {"unique_while": held_while, "unique_for": held_for, "on_conflict": on_conflict}
    for option, value in given.items():
        if value is not None:
            raise TypeError(
                f"{function}: {option} is set without unique_by. Say by which parameters its calls "
                "are equal: unique_by=('order_id',), or unique_by='all'."
            )


def _check_by(function: str, by: Any, parameters: Collection[str] | None) -> UniqueBy:
    if by == ALL:
        return "all"
    if not isinstance(by, tuple | list) or not all(isinstance(name, str) for name in by):
        raise TypeError(
            f"{function}: unique_by is {by!r}. Use a tuple of names of parameters, like "
            "('order_id',), or 'all'; () means that all calls of the task are equal."
        )
    unknown = [name for name in by if parameters is not None and name not in parameters]
    if unknown:
        raise TypeError(
            f"{function}: unique_by names {', '.join(map(repr, unknown))}. Use parameters of the "
            f"function: {', '.join(map(repr, parameters or ())) or '(none)'}."
        )
    return tuple(by)


MAX_DURATION: Final = timedelta(days=3650)
"""A longer time is most likely a mistake, such as milliseconds in place of seconds."""


def check_duration(function: str, option: str, value: Any) -> timedelta:
    """Return seconds, or a timedelta, as a timedelta. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(f"{function}: {option} is {value!r}. Use seconds, or a timedelta.")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 < seconds <= MAX_DURATION.total_seconds():
        raise ValueError(
            f"{function}: {option} is {value!r}. Use more than 0 seconds, up to ten years."
        )
    return timedelta(seconds=seconds)


def refuse_secret_keys(function: str, terms: UniqueTerms, secret: frozenset[str]) -> None:
    """Raise TypeError where the value of a secret parameter would become part of a key."""
    named = sorted(secret if terms.by == ALL else secret.intersection(terms.by))
    if named:
        raise TypeError(
            f"{function}: unique_by includes {', '.join(map(repr, named))}, whose values are "
            "secret. A key is stored in the open, so name only parameters that are not."
        )
