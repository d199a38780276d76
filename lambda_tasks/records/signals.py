"""Signals to durable functions, and their waits for them. They meet in one row: see StepSignal."""

from typing import Any
from uuid import UUID, uuid5

from .clock import Now
from .database import record_alias
from .encryption import decrypt_result, encrypt_result
from .tables import StepSignal


def send(call_id: UUID, name: str, value: Any) -> StepSignal | None:
    """Store a signal in the caller's transaction, unless one of its name has come.

    Returns the row as it was before, locked, where a run waits, or has waited, for the signal.
    """
    kept = _encrypted(call_id, name, value)
    row = StepSignal(call_id=call_id, name=name, value=kept, came_at=Now())
    before = _insert(row)
    if before is not None and before.came_at is None and not before.is_over:
        _rows(call_id, name).update(value=kept, came_at=Now())
    return before


def wait(call_id: UUID, name: str, run_id: UUID, type: str, *, drops: bool) -> bool:
    """Let a signal wake a run; return False where it has come, unless it `drops` that."""
    before = _insert(StepSignal(call_id=call_id, name=name, run_id=run_id, type=type))
    if before is None:
        return True
    if before.came_at is not None and not drops:
        return False
    waits = {"run_id": run_id, "type": type, "is_over": False}
    _rows(call_id, name).update(**waits, value=None, came_at=None)
    return True


def receive(call_id: UUID, name: str, *, ends: bool) -> tuple[bool, Any]:
    """Return whether a signal has come, and its value. If it has not, the wait `ends`."""
    row = _rows(call_id, name).select_for_update().first()
    if row is not None and row.came_at is not None:
        return True, decrypt_result(row.value, id=_key(call_id, name))
    if ends and row is not None:
        _rows(call_id, name).update(is_over=True)
    return False, None


def forget(call_id: UUID) -> None:
    """Forget the signals of a call."""
    StepSignal.objects.using(record_alias()).filter(call_id=call_id).delete()


def forget_unanswered(call_id: UUID) -> None:
    """Forget the waits of a call for signals that have not come."""
    StepSignal.objects.using(record_alias()).filter(call_id=call_id, came_at=None).delete()


def _insert(row: StepSignal) -> StepSignal | None:
    """Insert a row; return the one that is there instead, locked.

    Somebody else's uncommitted row is waited for: first the insert, so that none is missed.
    """
    StepSignal.objects.using(record_alias()).bulk_create([row], ignore_conflicts=True)
    found: StepSignal = _rows(row.call_id, row.name).select_for_update().get()
    return None if found.token == row.token else found


def _rows(call_id: UUID, name: str) -> Any:
    return StepSignal.objects.using(record_alias()).filter(call_id=call_id, name=name)


def _key(call_id: UUID, name: str) -> UUID:
    return uuid5(call_id, f"signal {name}")


def _encrypted(call_id: UUID, name: str, value: Any) -> Any:
    return encrypt_result(value, id=_key(call_id, name))
