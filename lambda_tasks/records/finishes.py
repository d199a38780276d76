"""How a record comes to its end: the one place that says what an end writes.

Where the end is a run's own, `portable` and `postgres` write these columns by the claim's token.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models import Case, DateTimeField, QuerySet, When

from ..core.lifecycle import STATUS_OF, Cancelled, End, Failed, Outcome, Succeeded
from .clock import Now
from .encryption import UNAVAILABLE, encrypt_result, kept_for
from .statements import Slot


def end_columns(end: End) -> dict[str, Any]:
    """The columns of a claimed run's own end; see finished_columns()."""
    columns = finished_columns(end.outcome)
    if "result" in columns:
        columns["result"] = encrypt_result(columns["result"], id=end.claim.invocation_id)
    return columns


def finished_columns(outcome: Outcome | Cancelled) -> dict[str, Any]:
    """The columns in which one end differs from another. Those that it lacks stay as they are."""
    columns: dict[str, Any] = {"status": STATUS_OF[type(outcome)]}
    if outcome.raised is not None:
        columns["exception_class"] = outcome.raised.exception_class
        columns["traceback"] = outcome.raised.traceback
    if isinstance(outcome, Succeeded):
        columns["result"] = outcome.result
    return columns


def common_columns(
    outcome: Outcome | Cancelled, secrets_for: timedelta | Slot | None
) -> Mapping[str, Any]:
    """The columns that every end writes, as expressions.

    A failed run keeps its secrets for so long, if it has any, so that it can be replayed; then the
    relay removes them.
    """
    if not isinstance(outcome, Failed) or secrets_for is None:
        return {"end_time": Now(), "secrets": None, "look_at": None}
    keeps = When(secrets__gt=UNAVAILABLE, then=Now() + secrets_for)
    look_at = Case(keeps, default=None, output_field=DateTimeField())
    return {"end_time": Now(), "look_at": look_at}


def finish(records: "QuerySet[Any]", outcome: Outcome | Cancelled) -> int:
    """End these records, which are chosen by the state that the caller believes in; how many."""
    return records.update(**finished_columns(outcome), **common_columns(outcome, kept_for()))
