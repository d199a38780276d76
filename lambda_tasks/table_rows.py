"""What messages, runs and claims are as rows of the table, and back. Knows no SQL."""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from .core.lifecycle import (
    LONGEST_WAIT,
    Claim,
    Continued,
    Outcome,
    Refusal,
    Refused,
    Status,
    Succeeded,
    outcome_status,
)
from .core.message import Message, Outgoing
from .ports import ClaimRequest
from .sealing import seal, unseal

if TYPE_CHECKING:
    from .models import TaskRecord

logger = logging.getLogger("lambda_tasks")

CLAIMED: Final = ("id", "n_attempts", "state", "enqueued_at", "start_time", "worker_ids")
"""What is to be known of a claim."""

Row = Mapping[str, Any]
"""Values by the names of columns, and `delay_s`: when it is due where `run_after` is None."""


def queued(outgoing: Outgoing, *, state: Any = None) -> Row:
    """A message that is yet to run, in the state that an earlier run has left."""
    return {
        **asked_for(outgoing.message, outgoing.queue),
        "enqueued_at": outgoing.enqueued_at,
        "run_after": outgoing.message.run_after,
        "delay_s": outgoing.delay_s or None,
        "state": state,
    }


def direct(request: ClaimRequest) -> Row:
    """A message that comes without a record."""
    return {
        **asked_for(request.message, request.queue),
        "enqueued_at": request.enqueued_at,
        "run_after": request.message.run_after,
        "delay_s": None,
        "state": None,
    }


def claims(returned: Sequence[Sequence[Any]], token: UUID) -> dict[UUID, Claim]:
    """What a claim with this token has returned: the columns of CLAIMED."""
    rows = (dict(zip(CLAIMED, values, strict=True)) for values in returned)
    # The ORM would have read the JSON.
    read = (row | {"state": row["state"] and json.loads(row["state"])} for row in rows)
    return {row["id"]: _claim(row, token) for row in read}


def readable(records: "Iterable[TaskRecord]") -> Iterator[Outgoing]:
    """The messages that records stand for. One whose secrets can't be read holds up no other."""
    for record in records:
        try:
            yield _outgoing(record, getattr(record, "now"))  # noqa: B009 - annotated
        except ValueError as error:
            logger.error("%s can't be sent: %s", record.id, error)


def _outgoing(record: "TaskRecord", now: datetime) -> Outgoing:
    """The message that a QUEUED record stands for, with what is left of its delay."""
    secrets = unseal(record.secrets)
    message = Message(
        task_name=record.task_name,
        kwargs=record.kwargs | secrets,
        invocation_id=record.id,
        args=record.args or [],
        backend=record.backend,
        n_retries=record.n_retries,
        queue=record.queue,
        durable=True,
        run_after=record.run_after,
        group_key=record.group_key,
        priority=record.priority,
        root_id=record.root_id,
        retry_of=record.retry_of,
        secret=frozenset(secrets),
    )
    wait = record.run_after - now if record.run_after else timedelta(0)
    delay_s = max(0, math.ceil(wait.total_seconds()))
    return Outgoing(message=message, body=message.encode(), queue=record.queue, delay_s=delay_s)


def lines(worker_ids: Iterable[str]) -> str:
    """Worker ids as their column has them."""
    return "".join(f"{worker_id}\n" for worker_id in worker_ids)


def asked_for(message: Message, queue: str) -> dict[str, Any]:
    """What a message asks for."""
    return {
        "id": message.invocation_id,
        "task_name": message.task_name,
        "args": message.args or None,
        "kwargs": message.shown_kwargs,
        "backend": message.backend,
        "secrets": seal(message.secret_kwargs),
        "n_retries": message.n_retries,
        "queue": queue,
        "group_key": message.group_key,
        "priority": message.priority,
        "root_id": message.root_id or message.invocation_id,
        "retry_of": message.retry_of,
    }


def verdict(
    row: Mapping[str, Any] | None, request: ClaimRequest, token: UUID, max_attempts: int
) -> Claim | Refused:
    """What became of a request to claim, by the row as it is after a claim with this token."""
    if row is None:
        return Refused(Refusal.UNKNOWN)
    status = Status(row["status"])
    if status is Status.CANCELLED:
        return Refused(Refusal.CANCELLED)
    if status.is_finished:
        return Refused(Refusal.FINISHED)
    if row["claim_token"] == token:
        return _claim(row, token)
    if status is Status.QUEUED and row["n_attempts"] >= max_attempts:
        return Refused(Refusal.EXHAUSTED)
    if status is Status.QUEUED:
        wait = row["run_after"] - row["now"] if row["run_after"] else timedelta(0)
        refusal = Refusal.LATER if wait > LONGEST_WAIT else Refusal.NOT_DUE
        return Refused(refusal, again_in_s=wait.total_seconds())
    may_run_again = request.rerun_when_lost and row["n_attempts"] < max_attempts
    if row["expired"] and not may_run_again:
        return Refused(Refusal.EXHAUSTED)
    left = (row["lease_until"] - row["now"]).total_seconds()
    return Refused(Refusal.HELD, again_in_s=max(left, 0.0))


def _claim(row: Row, token: UUID) -> Claim:
    return Claim(
        invocation_id=row["id"],
        token=token,
        attempt=row["n_attempts"],
        state=row["state"],
        enqueued_at=row["enqueued_at"],
        started_at=row["start_time"],
        worker_ids=tuple((row["worker_ids"] or "").splitlines()),
    )


def closing(outcome: Outcome) -> dict[str, Any]:
    """What an attempt has ended in."""
    fields: dict[str, Any] = {"status": outcome_status(outcome)}
    if outcome.raised is not None:
        fields["exception_class"] = outcome.raised.exception_class
        fields["traceback"] = outcome.raised.traceback
    if isinstance(outcome, Succeeded):
        fields["result"] = outcome.result
    if isinstance(outcome, Continued):
        fields["state"] = outcome.state
    return fields
