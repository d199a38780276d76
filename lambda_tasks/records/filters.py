"""The filters by which users name records: by id, status, task, queue, argument, time and error."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict
from uuid import UUID

from django.db.models import Q
from django.db.models.fields.json import KeyTransform

from ..core.lifecycle import Status
from ..errors import InvalidFilter
from .tables import RecordQuerySet


class Filters(TypedDict, total=False):
    """Conditions that all hold of the records that are meant. None counts as left out."""

    ids: Iterable[UUID | str] | None
    """The ids of invocations."""
    status: str | Collection[str] | None
    """One status or several, such as "FAILED"."""
    task: str | Collection[str] | None
    """The dotted names of tasks."""
    queue: str | Collection[str] | None
    """The names of queues."""
    arguments: Mapping[str, Any] | None
    """The values of arguments by name; by number, from "0", for positional ones. A number is also
    found where the call has it as text, and the other way round."""
    headers: Mapping[str, Any] | None
    """The values of headers by name, like those of arguments."""
    since: datetime | timedelta | None
    """The earliest time of the call; a timedelta counts back from now."""
    until: datetime | timedelta | None
    """The time before which it was called; a timedelta counts back from now."""
    error: str | None
    """A part of the exception's class or of the traceback."""


STATUSES: Final = frozenset(status.value for status in Status)

UNINDEXED: Final = frozenset({"status", "queue", "arguments", "headers", "error"})
"""The filters that no index finds."""


def is_empty(filters: Filters) -> bool:
    """Return whether filters name nothing, and so would mean all records."""
    return all(value is None for value in filters.values())


def filtered(records: RecordQuerySet, filters: Filters) -> RecordQuerySet:
    """Return the records for which all filters hold.

    Raises InvalidFilter, with the value and what to use instead, for one that makes no sense.
    """
    for name in filters.keys() - Filters.__annotations__.keys():
        known = ", ".join(Filters.__annotations__)
        raise InvalidFilter(f"There is no filter {name!r}. There are: {known}.")
    condition = Q()
    for name, condition_of in CONDITIONS.items():
        if (value := filters.get(name)) is not None:
            condition &= condition_of(value)
    records = _with_arguments(records, filters.get("arguments") or {})
    for name, value in (filters.get("headers") or {}).items():
        records = _with_value(records, KeyTransform(name, "headers"), value)
    return records.filter(condition)


def moment(name: str, value: object) -> datetime:
    """Return the time that a filter means. Raises InvalidFilter for one without a time zone."""
    if isinstance(value, timedelta) and value >= timedelta(0):
        try:
            return datetime.now(UTC) - value
        except OverflowError:
            return datetime(1, 1, 2, tzinfo=UTC)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise InvalidFilter(
        f"{name} is {value!r}. Use a datetime with a time zone, or a timedelta that counts back "
        "from now."
    )


def _with_arguments(records: RecordQuerySet, arguments: Mapping[str, Any]) -> RecordQuerySet:
    for name, value in arguments.items():
        is_position = name.isdecimal()
        if not (is_position or name.isidentifier()):
            raise InvalidFilter(
                f"{name!r} can't be the name of an argument. Use a parameter's name, or a number "
                "from 0 for a positional argument."
            )
        records = _with_value(
            records, KeyTransform(name, "args" if is_position else "kwargs"), value
        )
    return records


def _with_value(records: RecordQuerySet, key: KeyTransform, value: Any) -> RecordQuerySet:
    """Return the records with a value at this key of a JSON column."""
    # An alias, as lookups in the name of a filter would take `__` and `contains` for their own.
    alias = f"value_{len(records.query.annotations)}"
    same = Q()
    for each in _written_forms(value):
        same |= Q((alias, each))
    return records.alias(**{alias: key}).filter(same)


def _written_forms(value: Any) -> list[Any]:
    """Return a value, and the same number as text, or the number that a text is."""
    if isinstance(value, str):
        try:
            number = json.loads(value)
        except ValueError:
            return [value]
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        return [value, number] if is_number else [value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value, str(value)]
    return [value]


def _list(name: str, value: object) -> list[Any]:
    """Return one value or several as a list."""
    if isinstance(value, str | UUID):
        return [value]
    # An iterator would be empty when it is read again.
    if isinstance(value, Iterable) and not isinstance(value, Iterator):
        return list(value)
    raise InvalidFilter(f"{name} is {value!r}. Use one value, or a list of several.")


def as_uuid(id: object) -> UUID:
    """Return the id of an invocation. Raises InvalidFilter for what is none."""
    try:
        return id if isinstance(id, UUID) else UUID(str(id))
    except ValueError:
        raise InvalidFilter(
            f"{id!r} is not the id of an invocation. Use a UUID, as calls return it."
        ) from None


def _status(status: object) -> str:
    name = str(status).upper()
    if name in STATUSES:
        return name
    raise InvalidFilter(f"There is no status {status!r}. There are: {', '.join(Status)}.")


CONDITIONS: Final[Mapping[str, Callable[[Any], Q]]] = {
    "ids": lambda ids: Q(id__in=[as_uuid(id) for id in _list("ids", ids)]),
    "status": lambda status: Q(status__in=[_status(each) for each in _list("status", status)]),
    "task": lambda task: Q(task_name__in=_list("task", task)),
    "queue": lambda queue: Q(queue__in=_list("queue", queue)),
    "since": lambda since: Q(enqueued_at__gte=moment("since", since)),
    "until": lambda until: Q(enqueued_at__lt=moment("until", until)),
    "error": lambda error: Q(exception_class__icontains=error) | Q(traceback__icontains=error),
}
"""The condition of each filter but `arguments` and `headers`."""
