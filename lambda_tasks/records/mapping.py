"""The mapping between messages or claims and rows of the table, without SQL."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from ..core.graphs import Feed, Place, read_feeds
from ..core.lifecycle import Claim, LookTerms, Raised, RecordState, Status
from ..core.message import Message, Outgoing
from ..core.redaction import REDACTED
from ..core.unique import UniqueKey
from .encryption import decrypt, encrypt, encrypts_all

Links = tuple[tuple[Feed, ...], Mapping[str, Any]]
"""The feeds and the inputs of a step."""

Row = Mapping[str, Any]
"""The values of a row by column, and a few values that the statement computes columns from.

`delay_s` is the time until it is due where `run_after` is None. Somebody must look at it `grace_s`
after now or `ahead_s` before it is due, whichever is later. All that counts from `age_s` before the
moment when it is stored, which is when its call was.
"""

ARGS_KEY: Final = "*"
"""The key of all positional arguments among the encrypted ones. No parameter has this name."""

DROPPED: Final = {ARGS_KEY: REDACTED}
"""The arguments of a record that has lost them at its end."""

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
"""The columns of a Claim; `saved` is the state that the run starts with."""

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
    "headers",
    "expires_at",
    "unique_key",
    "unique_while",
    "unique_until",
    "workflow_id",
    "step",
    "links",
)
"""The columns of a message, except for its id."""

WAKE_UP_COLUMNS: Final = (
    "task_name",
    "backend",
    "queue",
    "root_id",
    "headers",
    "workflow_id",
    "step",
)
"""The columns of a wake-up, except for its id: what says who runs it, and names it in the log."""

GRANTED_COLUMNS: Final = (*CLAIM_COLUMNS, *MESSAGE_COLUMNS)

MICROSECOND_S: Final = 1e-6

JSON_COLUMNS: Final = ("saved", "args", "kwargs", "headers")

STATE_COLUMNS: Final = (
    *GRANTED_COLUMNS,
    "status",
    "claim_token",
    "lease_until",
    "is_paused",
    "now",
)
"""The columns that decide about a claim; `now` is the database's clock."""


def row_of(
    message: Message,
    queue: str,
    look: LookTerms,
    *,
    enqueued_at: datetime | None = None,
    delay_s: int | None = None,
    waits: bool = False,
    age_s: float = 0.0,
) -> Row:
    """Return the row of a new record; with `waits`, nobody is about to send its message."""
    message = message.without_results()
    secret_values = _encrypted_arguments(message)
    return {
        "id": message.invocation_id,
        "task_name": message.task_name,
        "args": _redact_args(message.args, secret_values) or None,
        "kwargs": _redact_kwargs(message.kwargs, secret_values),
        "backend": message.backend,
        "secrets": encrypt(secret_values, id=message.invocation_id) if secret_values else None,
        "n_retries": message.n_retries,
        "n_continues": message.n_continues,
        "queue": queue,
        "group_key": message.group_key,
        "priority": message.priority,
        "root_id": message.root_id or message.invocation_id,
        "retry_of": message.retry_of,
        "headers": message.headers or None,
        "expires_at": message.expires_at,
        **_unique_columns(message.unique),
        **_place_columns(message.place),
        "enqueued_at": enqueued_at,
        "run_after": message.run_after,
        "delay_s": delay_s,
        "grace_s": 0.0 if waits else look.grace.total_seconds(),
        "ahead_s": look.ahead.total_seconds(),
        "age_s": age_s,
    }


def _unique_columns(unique: UniqueKey | None) -> dict[str, Any]:
    if unique is None:
        return {"unique_key": None, "unique_while": None, "unique_until": None}
    return {
        "unique_key": unique.key,
        "unique_while": unique.held_while,
        "unique_until": unique.until,
    }


def _place_columns(place: Place | None) -> dict[str, Any]:
    if place is None:
        return {"workflow_id": None, "step": None, "links": None}
    return {"workflow_id": place.workflow_id, "step": place.step, "links": place.links()}


def place_of(row: Row) -> Place | None:
    """Return the place of a row in its workflow.

    None outside of one, and once a retry or a further run has taken it over.
    """
    if row["step"] is None:
        return None
    links = row["links"]
    feeds, inputs = _read_links(links) if isinstance(links, str) else _links_of(links)
    return Place(row["workflow_id"], row["step"], feeds, inputs)


@lru_cache(maxsize=1024)
def _read_links(text: str) -> Links:
    """Return the links of a row of raw SQL. Neighbours of a group have the same ones."""
    return _links_of(json.loads(text))


def _links_of(links: Mapping[str, Any]) -> Links:
    return read_feeds(links["feeds"]), links["inputs"]


def _encrypted_arguments(message: Message) -> Mapping[str, Any]:
    """Return the arguments to encrypt: all of them, or only the secret ones."""
    if encrypts_all():
        return {**message.kwargs, ARGS_KEY: message.args}
    return message.secret_kwargs


def _redact_args(args: Sequence[Any], secret_values: Mapping[str, Any]) -> list[Any]:
    return [REDACTED] * len(args) if ARGS_KEY in secret_values else list(args)


def _redact_kwargs(kwargs: dict[str, Any], secret_values: Mapping[str, Any]) -> dict[str, Any]:
    if not secret_values:
        return kwargs
    return kwargs | dict.fromkeys(secret_values.keys() & kwargs.keys(), REDACTED)


def queued_rows(messages: Iterable[Outgoing], ages_s: Sequence[float] = ()) -> list[Row]:
    """Return the rows of new QUEUED records that are stored together.

    `ages_s` says how long ago each was called; without it, they are called now. Where the order
    counts, each has a time of its own.
    """
    ages = iter(ages_s)
    return [
        queued_row(
            outgoing,
            age_s=next(ages, 0.0) - (number * MICROSECOND_S if outgoing.look.in_order else 0.0),
        )
        for number, outgoing in enumerate(messages)
    ]


def queued_row(outgoing: Outgoing, *, age_s: float = 0.0) -> Row:
    """Return the row of a new QUEUED record, whose call was `age_s` ago."""
    return row_of(
        outgoing.message,
        outgoing.queue,
        outgoing.look,
        enqueued_at=outgoing.enqueued_at,
        delay_s=outgoing.delay_s or None,
        waits=outgoing.waits,
        age_s=age_s,
    )


def rows_of(returned: Sequence[Sequence[Any]], columns: Sequence[str]) -> dict[UUID, Row]:
    """Return the rows that a statement returned with these columns, by id."""
    rows: dict[UUID, Row] = {}
    for values in returned:
        row: dict[str, Any] = dict(zip(columns, values, strict=True))
        for name in JSON_COLUMNS:  # raw SQL returns JSON as text
            if row.get(name) is not None:
                row[name] = json.loads(row[name])
        rows[row["id"]] = row
    return rows


def claim_of(row: Row, token: UUID) -> Claim:
    """Return the claim of a row with CLAIM_COLUMNS. One that waits for its turn has no start."""
    has_started = row["start_time"] is not None
    return Claim(
        invocation_id=row["id"],
        token=token,
        attempt=row["n_attempts"] + (not has_started),
        state=row["saved"],
        enqueued_at=row["enqueued_at"],
        started_at=row["start_time"],
        worker_ids=tuple((row["worker_ids"] or "").splitlines()),
        has_started=has_started,
        n_waits=row["n_waits"],
        cut_off_s=row["cut_off_s"] or 0.0,
    )


def state_of(row: Row, token: UUID) -> RecordState:
    """Return the state of a row with STATE_COLUMNS, for a claim with this token."""
    return RecordState(
        status=Status(row["status"]),
        n_attempts=row["n_attempts"],
        is_ours=row["claim_token"] == token,
        due_in_s=_seconds_until(row["run_after"], row["now"]),
        lease_left_s=_seconds_until(row["lease_until"], row["now"]),
        has_started=row["start_time"] is not None,
        is_expired=is_expired(row),
        is_paused=bool(row["is_paused"]),
    )


def is_expired(row: Row) -> bool:
    """Return whether a record had not begun when its time was over, by the clock of its row."""
    return expires_in_s(row) <= 0


def expires_in_s(row: Row) -> float:
    """Return the seconds until a record expires; infinity if it never does, or has begun."""
    has_begun = row["n_attempts"] > 0 or row["cut_off_s"] is not None
    if row["expires_at"] is None or has_begun:
        return math.inf
    return _seconds_until(row["expires_at"], row["now"])


def read_messages(
    rows: Iterable[Row], unreadable: dict[UUID, Raised]
) -> Iterator[tuple[Message, float]]:
    """Yield the messages of rows with MESSAGE_COLUMNS, each with the seconds until it is due.

    The rows have the database's clock as `now`. Those whose secrets can't be decrypted are added
    to `unreadable`, with the reason.
    """
    for row in rows:
        try:
            yield message_of(row), _seconds_until(row["run_after"], row["now"])
        except ValueError as error:
            unreadable[row["id"]] = Raised.from_error(error, str(error))


def wake_up_of(row: Row) -> Message:
    """Return the message of a row with WAKE_UP_COLUMNS: a wake-up. Its claim reads the call."""
    step = row["step"]
    return Message(
        task_name=row["task_name"],
        kwargs={},
        invocation_id=row["id"],
        backend=row["backend"],
        queue=row["queue"],
        durable=True,
        root_id=row["root_id"],
        headers=row["headers"] or {},
        place=None if step is None else Place(row["workflow_id"], step),
        has_arguments=False,
    )


def message_of(row: Row) -> Message:
    """Return the message of a row with MESSAGE_COLUMNS.

    Raises ValueError where its secrets can't be decrypted.
    """
    secret_values = decrypt(row["secrets"], id=row["id"])
    args = secret_values.pop(ARGS_KEY, None)
    return Message(
        task_name=row["task_name"],
        kwargs=row["kwargs"] | secret_values,
        invocation_id=row["id"],
        args=tuple((row["args"] if args is None else args) or ()),
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
        headers=row["headers"] or {},
        expires_at=row["expires_at"],
        unique=_unique_of(row),
        place=place_of(row),
        # If all arguments are encrypted, only the task knows which of them are secret.
        secret=frozenset(secret_values) if args is None else frozenset(),
    )


def _unique_of(row: Row) -> UniqueKey | None:
    """Return the key that a row holds."""
    if row["unique_key"] is None:
        return None
    return UniqueKey(row["unique_key"], row["unique_while"], row["unique_until"])


def outgoing_of(message: Message, due_in_s: float, look: LookTerms) -> Outgoing:
    """Return a stored message to send, with the rest of its delay."""
    return Outgoing(
        message,
        message.encode(),
        message.queue or "",
        max(0, math.ceil(due_in_s)),
        look=look,
        is_follow_up=True,
    )


def join_worker_ids(worker_ids: Iterable[str]) -> str:
    """Return worker ids as their column has them, one on each line."""
    return "".join(f"{worker_id}\n" for worker_id in worker_ids)


def last_worker_id(worker_ids: str | None) -> str:
    """Return the id of the worker that started a record last, "" for none."""
    return (worker_ids or "").rstrip("\n").rpartition("\n")[2]


def _seconds_until(moment: datetime | None, now: datetime) -> float:
    wait = moment - now if moment is not None else timedelta(0)
    return wait.total_seconds()
