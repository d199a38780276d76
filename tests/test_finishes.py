"""What an end writes into a record, whatever it is that ends it."""

import uuid
from datetime import timedelta
from typing import Any

import pytest

from lambda_tasks.core.fingerprints import fingerprint
from lambda_tasks.core.lifecycle import (
    STATUS_OF,
    Cancelled,
    Continued,
    Failed,
    Outcome,
    Raised,
    Retried,
    Skipped,
    Succeeded,
)
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.finishes import finish, finished_columns

RAISED = Raised("builtins.KeyError", "the traceback")
RAISED_COLUMNS = {"exception_class": "builtins.KeyError", "traceback": "the traceback"}
KEPT_ID = uuid.uuid4()
ERROR_COLUMNS = {
    **RAISED_COLUMNS, "error_id": fingerprint(RAISED.exception_class, RAISED.traceback).id,
}  # fmt: skip
ENDS: list[tuple[Outcome | Cancelled, dict[str, Any]]] = [
    (Succeeded(), {"status": "SUCCESS", "result": None}),
    (Succeeded({"a": [1]}), {"status": "SUCCESS", "result": {"a": [1]}}),
    (Succeeded(raised=RAISED), {"status": "SUCCESS", "result": None, **RAISED_COLUMNS}),
    (Failed(RAISED), {"status": "FAILED", **ERROR_COLUMNS}),
    (Retried(RAISED, timedelta(seconds=9)), {"status": "RETRYING", **ERROR_COLUMNS}),
    (Continued({"page": 2}), {"status": "SUCCESS"}),
    (Skipped(RAISED, "nightly"), {"status": "CANCELLED", **RAISED_COLUMNS}),
    (Cancelled(), {"status": "CANCELLED"}),
]


@pytest.mark.parametrize(("outcome", "columns"), ENDS, ids=str)
def test_each_end_writes_its_own_columns_and_no_others(
    outcome: Outcome | Cancelled, columns: dict[str, Any]
) -> None:
    assert finished_columns(outcome) == columns


def test_no_end_is_missing_here() -> None:
    assert {type(outcome) for outcome, _ in ENDS} == set(STATUS_OF)


@pytest.mark.django_db
@pytest.mark.parametrize(("outcome", "columns"), ENDS, ids=str)
def test_every_end_also_writes_its_time_and_removes_the_secrets_of_what_has_not_failed(
    outcome: Outcome | Cancelled, columns: dict[str, Any]
) -> None:
    kept = {"result": "kept", "exception_class": "kept", "traceback": "kept", "error_id": KEPT_ID}
    given = {"task_name": "app.tasks.f", "kwargs": {}, "secrets": "encrypted", **kept}
    ended, other = (TaskRecord.objects.create(**given) for _ in range(2))

    assert finish(TaskRecord.objects.filter(id=ended.id), outcome) == 1

    ended.refresh_from_db()
    assert {name: getattr(ended, name) for name in ("status", *kept)} == {**kept, **columns}
    assert ended.end_time is not None
    assert (ended.broken_since is not None) is isinstance(outcome, Failed)
    kept_secrets = "encrypted" if isinstance(outcome, Failed) else None
    assert ended.secrets == kept_secrets
    assert (ended.look_at is not None) is (kept_secrets is not None)
    other.refresh_from_db()
    assert (other.status, other.end_time, other.secrets) == ("QUEUED", None, "encrypted")
