"""The columns that the end of a record writes; no other module defines them.

`portable` and `postgres` write them at the end of a claimed run, if its token still matches.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import EmptyResultSet
from django.db import connections, transaction
from django.db.models import Case, DateTimeField, F, JSONField, Q, QuerySet, UUIDField, Value, When
from django.db.models.functions import Coalesce, Greatest

from ..core.durable import FOREVER
from ..core.fingerprints import fingerprint
from ..core.lifecycle import STATUS_OF, Cancelled, End, Failed, Outcome, Retried, Status, Succeeded
from ..ports import Released
from .clock import Now
from .encryption import UNAVAILABLE, encrypt_result, secrets_retention
from .joins import count_ends
from .mapping import DROPPED, Row, place_of
from .releasing import send_released
from .statements import Placeholder, execute, update
from .tables import DROPS_ARGUMENTS

ENDED_COLUMNS: Final = ("id", "workflow_id", "step", "links", "headers")
"""The columns of a record that its end has consequences by."""


def end_columns(end: End) -> dict[str, Any]:
    """Return the columns of a claimed run's end, with an encrypted result if the settings say so.

    See finished_columns().
    """
    columns = finished_columns(end.outcome)
    if "result" in columns:
        columns["result"] = encrypt_result(columns["result"], id=end.claim.invocation_id)
    if end.drops_arguments and not (isinstance(end.outcome, Failed) and secrets_retention()):
        columns |= {"kwargs": DROPPED, "args": None}
    if end.place is not None and end.moves_on:
        columns |= {"step": None, "links": None}  # The run that follows has the place now.
    return columns


def finished_columns(outcome: Outcome | Cancelled) -> dict[str, Any]:
    """Return the columns that depend on the outcome. Columns that are missing stay unchanged."""
    columns: dict[str, Any] = {"status": STATUS_OF[type(outcome)]}
    if outcome.raised is not None:
        columns["exception_class"] = outcome.raised.exception_class
        columns["traceback"] = outcome.raised.traceback
    if isinstance(outcome, Failed | Retried):
        raised = outcome.raised
        columns["error_id"] = fingerprint(raised.exception_class, raised.traceback).id
    if isinstance(outcome, Succeeded):
        columns["result"] = outcome.result
    return columns


def common_columns(
    outcome: Outcome | Cancelled,
    secrets_for: timedelta | Placeholder | None,
    *,
    drops: Q | bool = False,
) -> Mapping[str, Any]:
    """Return the columns that every end writes, as expressions.

    The record of a failed run keeps its secrets, if any, for the time `secrets_for`, so that it can
    be replayed, and so its arguments if it `drops` them. Then the relay removes them.
    """
    ended = {"end_time": Now(), "unique_key": _unique_key(outcome)}
    if isinstance(outcome, Failed):
        ended["broken_since"] = Now()
    if not isinstance(outcome, Failed) or secrets_for is None:
        return {**ended, "secrets": None, "look_at": None}
    if drops is True:
        return {**ended, "look_at": Now() + secrets_for}
    has_secrets = Q(secrets__gt=UNAVAILABLE)
    keeps = When(has_secrets | drops if drops else has_secrets, then=Now() + secrets_for)
    look_at = Case(keeps, default=None, output_field=DateTimeField())
    return {**ended, "look_at": look_at}


def may_keep_key(outcome: Outcome | Cancelled) -> bool:
    """Return whether a record may hold its unique key after such an end. See _unique_key()."""
    return isinstance(outcome, Succeeded)


def _unique_key(outcome: Outcome | Cancelled) -> Case | None:
    """Return the unique key after an end: none, unless it is kept for a time after a success.

    A retry, or a run that continues, takes the key over with the whole time.
    """
    if not may_keep_key(outcome):
        return None
    keeps = When(unique_until__gt=Now(), then=F("unique_key"))
    return Case(keeps, default=None, output_field=UUIDField())


def forgotten_columns() -> Mapping[str, Any]:
    """Return the columns by which records lose their secrets, and arguments they do not keep."""
    return {
        "secrets": None,
        "kwargs": Case(When(DROPS_ARGUMENTS, then=Value(DROPPED, JSONField())), default="kwargs"),
        "args": Case(When(DROPS_ARGUMENTS, then=None), default="args"),
    }


def reopened_columns(look_at: Any) -> Mapping[str, Any]:
    """Return the columns of an invocation that has ended and starts over, to be looked at then.

    What identifies the call stays: its arguments, its links and the time of the call.
    """
    cleared = (
        "result", "exception_class", "traceback", "start_time", "end_time", "sent_at", "worker_ids",
        "claim_token", "lease_until", "refused_at", "cut_off_s", "limit_key", "expires_at",
        "error_id", "broken_since",
    )  # fmt: skip
    counters = ("n_attempts", "n_retries", "n_continues", "n_waits")
    return {
        **dict.fromkeys(cleared),
        **dict.fromkeys(counters, 0),
        "status": Status.QUEUED,
        "reserved_for": None,  # its rate has it reserve another moment
        # So that it waits from now on, as one that is called now. What was to be woken looks first.
        "run_after": Case(
            When(run_after=FOREVER, then=Now()),
            default=Greatest(Coalesce(F("run_after"), Now()), Now()),
        ),
        "look_at": look_at,
    }


def finish(
    records: "QuerySet[Any]", outcome: Outcome | Cancelled, *, is_counted: bool = True
) -> int:
    """Write the end of these records; return how many.

    The caller's query selects them by the state that it expects. With `is_counted`, the ends of
    steps are counted in their workflows, and the steps that they release are sent.
    """
    secrets_for = secrets_retention()
    common = common_columns(outcome, secrets_for, drops=DROPS_ARGUMENTS)
    is_over = not isinstance(outcome, Failed) or secrets_for is None
    forgotten = forgotten_columns() if is_over else {}
    columns = {**finished_columns(outcome), **common, **forgotten}
    columns = {**columns, "limit_key": None}
    with transaction.atomic(using=records.db, savepoint=False):
        ended = _update_returning(records, columns)
        succeeded = isinstance(outcome, Succeeded)
        released: list[Released] = []
        if is_counted:
            places = [place for row in ended if (place := place_of(row))]
            released += count_ends(records.db, [(each, succeeded) for each in places])
        if not succeeded:
            released += _undo(ended)
        send_released(released)
    return len(ended)


def _undo(ended: Iterable[Row]) -> list[Released]:
    """Store the runs of the compensations of durable functions that have not succeeded."""
    from .undoing import EndedCall, call_of, follow  # above this module

    calls = [
        EndedCall(row["id"], call_id, knows_undos=False)
        for row in ended
        if (call_id := call_of(row["headers"]))
    ]
    return [Released(None, run_id=id) for id in follow(calls)] if calls else []


def _update_returning(records: "QuerySet[Any]", columns: Mapping[str, Any]) -> Sequence[Row]:
    """Update records, and return of each what counts for others."""
    connection = connections[records.db]
    if connection.vendor == "mysql" or not connection.features.can_return_columns_from_insert:
        found = list(records.select_for_update().values(*ENDED_COLUMNS))
        these = records.model.objects.using(records.db).filter(id__in=[row["id"] for row in found])
        these.update(**columns)
        return found
    try:
        sql, params = update(records, columns)
    except EmptyResultSet:
        return []
    _, rows = execute(connection, sql, params, returning=f" RETURNING {', '.join(ENDED_COLUMNS)}")
    return [_ended_row(*row) for row in rows]


def _ended_row(id: Any, workflow_id: Any, step: int | None, links: Any, headers: Any) -> Row:
    """Return a row as the ORM has it, but its links: raw SQL returns texts, and UUIDs on SQLite."""
    return {
        "id": UUID(str(id)),
        "workflow_id": None if workflow_id is None else UUID(str(workflow_id)),
        "step": step,
        "links": links,  # place_of() reads the text
        "headers": None if headers is None else json.loads(headers),
    }
