"""Messages and claims as rows of the table, and back. Knows no SQL."""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from ..core.lifecycle import Claim, LookTerms, RecordState, Status
from ..core.message import Message, Outgoing
from ..core.redaction import REDACTED
from .encryption import decrypt, encrypt, encrypts_all

logger = logging.getLogger("lambda_tasks")

Row = Mapping[str, Any]
"""Values by the names of columns, and seconds: `delay_s`, in which it is due where `run_after` is
None; `grace_s` and `ahead_s`, from now and before it is due, of which the later is when somebody
must look at it. `number` tells one from others that are enqueued at the same moment."""

ARGS: Final = "*"
"""Stands for all positional arguments among those that are kept apart. No parameter's name."""

CLAIM_COLUMNS: Final = (
    "id",
    "n_attempts",
    "saved",
    "enqueued_at",
    "start_time",
    "worker_ids",
    "n_waits",
    "cut_off_s",
)
"""What a Claim is made of; `saved` is the state that it begins with."""

MESSAGE_COLUMNS: Final = (
    "task_name",
    "args",
    "kwargs",
    "backend",
    "secrets",
    "n_retries",
    "n_continues",
    "queue",
    "group_key",
    "priority",
    "root_id",
    "retry_of",
    "run_after",
)
"""What a message is made of, beside its id."""

GRANTED_COLUMNS: Final = (*CLAIM_COLUMNS, *MESSAGE_COLUMNS)

JSON_COLUMNS: Final = ("saved", "args", "kwargs")

STATE_COLUMNS: Final = (*GRANTED_COLUMNS, "status", "claim_token", "lease_until", "now")
"""What decides about a claim; `now` is the database's clock."""


def row_of(
    message: Message,
    queue: str,
    look: LookTerms,
    *,
    enqueued_at: datetime | None = None,
    delay_s: int | None = None,
    waits: bool = False,
    number: int = 0,
) -> Row:
    """A new record of a message; `waits` where nobody is about to send it."""
    kept_apart = _kept_apart(message)
    return {
        "id": message.invocation_id,
        "task_name": message.task_name,
        "args": ([REDACTED] * len(message.args) if ARGS in kept_apart else message.args) or None,
        "kwargs": _shown_kwargs(message.kwargs, kept_apart),
        "backend": message.backend,
        "secrets": encrypt(kept_apart, id=message.invocation_id) if kept_apart else None,
        "n_retries": message.n_retries,
        "n_continues": message.n_continues,
        "queue": queue,
        "group_key": message.group_key,
        "priority": message.priority,
        "root_id": message.root_id or message.invocation_id,
        "retry_of": message.retry_of,
        "enqueued_at": enqueued_at,
        "run_after": message.run_after,
        "delay_s": delay_s,
        "grace_s": 0.0 if waits else look.grace.total_seconds(),
        "ahead_s": look.ahead.total_seconds(),
        "number": number if look.in_order else 0,
    }


def _kept_apart(message: Message) -> Mapping[str, Any]:
    """What of its arguments is encrypted: all, or the secret ones."""
    if encrypts_all():
        return {**message.kwargs, ARGS: message.args}
    return message.secret_kwargs


def _shown_kwargs(kwargs: dict[str, Any], kept_apart: Mapping[str, Any]) -> dict[str, Any]:
    if not kept_apart:
        return kwargs
    return kwargs | dict.fromkeys(kept_apart.keys() & kwargs.keys(), REDACTED)


def queued_row(outgoing: Outgoing, number: int = 0) -> Row:
    """A new record of a message that is on its way out, the `number`-th that is stored at once."""
    return row_of(
        outgoing.message,
        outgoing.queue,
        outgoing.look,
        enqueued_at=outgoing.enqueued_at,
        delay_s=outgoing.delay_s or None,
        waits=outgoing.waits,
        number=number,
    )


def rows_of(returned: Sequence[Sequence[Any]], columns: Sequence[str]) -> dict[UUID, Row]:
    """What a statement has returned of these columns, by id."""
    rows: dict[UUID, Row] = {}
    for values in returned:
        row: dict[str, Any] = dict(zip(columns, values, strict=True))
        for name in JSON_COLUMNS:  # the ORM would have read them
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
        rows[row["id"]] = row
    return rows


def claim_of(row: Row, token: UUID) -> Claim:
    """The claim that a row shows, with CLAIM_COLUMNS. One that waits for its turn has no start."""
    has_begun = row["start_time"] is not None
    return Claim(
        invocation_id=row["id"],
        token=token,
        attempt=row["n_attempts"] + (not has_begun),
        state=row["saved"],
        enqueued_at=row["enqueued_at"],
        started_at=row["start_time"],
        worker_ids=tuple((row["worker_ids"] or "").splitlines()),
        has_begun=has_begun,
        n_waits=row["n_waits"],
        cut_off_s=row["cut_off_s"] or 0.0,
    )


def state_of(row: Row, token: UUID) -> RecordState:
    """What decides about a claim with this token, of a row with STATE_COLUMNS."""
    return RecordState(
        status=Status(row["status"]),
        n_attempts=row["n_attempts"],
        is_ours=row["claim_token"] == token,
        due_in_s=_seconds_until(row["run_after"], row["now"]),
        lease_left_s=_seconds_until(row["lease_until"], row["now"]),
        has_begun=row["start_time"] is not None,
    )


def readable(records: Iterable[Any], unreadable: list[UUID]) -> Iterator[tuple[Message, float]]:
    """The messages that QUEUED records stand for, and the seconds until each is due.

    Records are annotated with `now`. The ids of those whose secrets can't be read go to
    `unreadable`.
    """
    for record in records:
        try:
            yield message_of(vars(record)), _seconds_until(record.run_after, record.now)
        except ValueError as error:
            logger.error("%s can't be sent: %s", record.id, error)
            unreadable.append(record.id)


def message_of(row: Row) -> Message:
    """The message that a row with MESSAGE_COLUMNS stands for.

    Raises ValueError where its secrets can't be read.
    """
    kept_apart = decrypt(row["secrets"], id=row["id"])
    args = kept_apart.pop(ARGS, None)
    return Message(
        task_name=row["task_name"],
        kwargs=row["kwargs"] | kept_apart,
        invocation_id=row["id"],
        args=(row["args"] if args is None else args) or [],
        backend=row["backend"],
        n_retries=row["n_retries"],
        n_continues=row["n_continues"],
        queue=row["queue"],
        durable=True,
        run_after=row["run_after"],
        group_key=row["group_key"],
        priority=row["priority"],
        root_id=row["root_id"],
        retry_of=row["retry_of"],
        # Where all is encrypted, who knows the task knows which of it is secret.
        secret=frozenset(kept_apart) if args is None else frozenset(),
    )


def outgoing_of(message: Message, due_in_s: float, look: LookTerms) -> Outgoing:
    """A stored message that is sent later, or again, with what is left of its delay."""
    return Outgoing(
        message,
        message.encode(),
        message.queue or "",
        max(0, math.ceil(due_in_s)),
        look=look,
        is_follow_up=True,
    )


def join_worker_ids(worker_ids: Iterable[str]) -> str:
    """Worker ids as their column has them, a line each."""
    return "".join(f"{worker_id}\n" for worker_id in worker_ids)


def _seconds_until(moment: datetime | None, now: datetime) -> float:
    wait = moment - now if moment is not None else timedelta(0)
    return wait.total_seconds()
