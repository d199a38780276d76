"""The arguments of steps that are results of others. They are read at each claim."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from django.db.models import Q

from ..core.lifecycle import Raised, Refusal, Refused, Status
from ..core.message import Message
from ..ports import Granted
from .database import all_records
from .encryption import decrypt_result
from .retrying import with_retries
from .workflows import groups_of

GROUP: Final = "group"

EMPTY: Final[Mapping[str, Any]] = {"values": [], "total": 0, "failed": 0}
"""The results of an empty group, which has no join."""

Key = tuple[str, UUID, int | None]
"""Whether it is the result of a step or of a group, the workflow, and the number."""


@with_retries
def read(
    messages: Mapping[UUID, Message], granted: Mapping[UUID, Granted]
) -> dict[UUID, Granted | Refused]:
    """Return the claims of steps with all their arguments, read by two queries at most."""
    needed = {key for message in messages.values() for key in _keys(message).values()}
    groups = {(id, number) for kind, id, number in needed if kind == GROUP and number is not None}
    steps = {(id, number) for kind, id, number in needed if kind != GROUP and number is not None}
    values: dict[Key, Any] = {
        (kind, id, number): {**EMPTY, "workflow_id": str(id)}
        for kind, id, number in needed
        if number is None
    }
    try:
        values |= _results(steps)
        if groups:
            values |= {(GROUP, *key): group for key, group in groups_of(groups).items()}
    except ValueError as error:
        reason = Raised.from_error(error, str(error))
        return {id: Refused(Refusal.UNREADABLE, reason=reason) for id in granted}
    return {id: _complete(each, values) for id, each in granted.items()}


def _complete(granted: Granted, values: Mapping[Key, Any]) -> Granted | Refused:
    message, keys = granted.message, _keys(granted.message)
    if missing := [name for name, key in keys.items() if key not in values]:
        error = LookupError(f"the results that it takes as {missing} are deleted")
        return Refused(Refusal.UNREADABLE, reason=Raised.from_error(error, str(error)))
    found = {name: values[key] for name, key in keys.items()}
    return replace(
        granted,
        message=replace(
            message,
            args=tuple(found.pop(str(index), each) for index, each in enumerate(message.args)),
            kwargs={**message.kwargs, **found},
        ),
    )


def _keys(message: Message) -> dict[str, Key]:
    place = message.place
    assert place is not None
    return {name: (kind, place.workflow_id, n) for name, (kind, n) in place.inputs.items()}


def _results(steps: set[tuple[UUID, int]]) -> dict[Key, Any]:
    if not steps:
        return {}
    these = Q()
    for workflow_id in {workflow_id for workflow_id, _ in steps}:
        numbers = [number for id, number in steps if id == workflow_id]
        these |= Q(workflow_id=workflow_id, step__in=numbers)
    found = all_records().filter(these, status=Status.SUCCESS).order_by()
    columns: Iterable[Any] = found.values_list("id", "workflow_id", "step", "result")
    return {
        ("step", workflow_id, step): decrypt_result(result, id=id)
        for id, workflow_id, step, result in columns
    }
