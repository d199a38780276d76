"""The columns that the end of a record writes; no other module defines them.

`portable` and `postgres` write them at the end of a claimed run, if its token still matches.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models import Case, DateTimeField, F, QuerySet, When
from django.db.models.functions import Coalesce, Greatest

from ..core.lifecycle import STATUS_OF, Cancelled, End, Failed, Outcome, Status, Succeeded
from .clock import Now
from .encryption import UNAVAILABLE, encrypt_result, secrets_retention
from .statements import Placeholder


def end_columns(end: End) -> dict[str, Any]:
    """Return the columns of a claimed run's end, with an encrypted result if the settings say so.

    See finished_columns().
    """
    columns = finished_columns(end.outcome)
    if "result" in columns:
        columns["result"] = encrypt_result(columns["result"], id=end.claim.invocation_id)
    return columns


def finished_columns(outcome: Outcome | Cancelled) -> dict[str, Any]:
    """Return the columns that depend on the outcome. Columns that are missing stay unchanged."""
    columns: dict[str, Any] = {"status": STATUS_OF[type(outcome)]}
    if outcome.raised is not None:
        columns["exception_class"] = outcome.raised.exception_class
        columns["traceback"] = outcome.raised.traceback
    if isinstance(outcome, Succeeded):
        columns["result"] = outcome.result
    return columns


def common_columns(
    outcome: Outcome | Cancelled, secrets_for: timedelta | Placeholder | None
) -> Mapping[str, Any]:
    """Return the columns that every end writes, as expressions.

    The record of a failed run keeps its secrets, if any, for the time `secrets_for`, so that it can
    be replayed. Then the relay removes them.
    """
    if not isinstance(outcome, Failed) or secrets_for is None:
        return {"end_time": Now(), "secrets": None, "look_at": None}
    keeps = When(secrets__gt=UNAVAILABLE, then=Now() + secrets_for)
    look_at = Case(keeps, default=None, output_field=DateTimeField())
    return {"end_time": Now(), "look_at": look_at}


def reopened_columns(look_at: Any) -> Mapping[str, Any]:
    """Return the columns of an invocation that has ended and starts over, to be looked at then.

    What identifies the call stays: its arguments, its links and the time of the call.
    """
    cleared = (
        "result", "exception_class", "traceback", "start_time", "end_time", "sent_at", "worker_ids",
        "claim_token", "lease_until", "refused_at", "cut_off_s",
    )  # fmt: skip
    counters = ("n_attempts", "n_retries", "n_continues", "n_waits")
    return {
        **dict.fromkeys(cleared),
        **dict.fromkeys(counters, 0),
        "status": Status.QUEUED,
        "reserved_for": None,  # its rate has it reserve another moment
        # So that it waits from now on, as one that is called now.
        "run_after": Greatest(Coalesce(F("run_after"), Now()), Now()),
        "look_at": look_at,
    }


def finish(records: "QuerySet[Any]", outcome: Outcome | Cancelled) -> int:
    """Write the end of these records; return how many.

    The caller's query selects them by the state that it expects.
    """
    return records.update(
        **finished_columns(outcome),
        **common_columns(outcome, secrets_retention()),
        limit_key=None,
    )
