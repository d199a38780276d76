"""Unique keys: which calls get a record, and which join the one whose record holds their key.

The unique index of the table decides: a call's INSERT skips its row where another row has the key.
Only then the other row is read. All of it happens in the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import DatabaseError, connections

from .. import interrupts
from ..core.lifecycle import Status
from ..core.message import Outgoing
from ..core.unique import UniqueKey
from ..errors import UniqueConflict, UniqueKeyBusy
from ..ports import Joined
from .database import statements
from .expiry import expire
from .mapping import Row, is_expired, queued_row, queued_rows
from .retrying import is_in_transaction, run_with_retries

MAX_TRIES: Final = 10
"""The most tries to write a row or to find the one that holds its key, which may end meanwhile."""

WAIT_LIMIT_S: Final = interrupts.LIBRARY_STATEMENT_LIMIT_S
"""Seconds to wait for another transaction that has written the same key and is still open."""

ROW_LIMIT_S: Final = 0.02
"""Seconds for each row beside these."""

Calls = Mapping[UUID, Outgoing]
"""The calls by their invocation id."""


def insert_unique(alias: str, messages: Sequence[Outgoing]) -> list[Joined]:
    """Store messages that have unique keys; return those that join others instead.

    Raises UniqueConflict where a call says so; the rows of others may have been written by then.
    Raises UniqueKeyBusy where another transaction holds it up for too long.
    """
    firsts, equals = _group_equal(messages)
    calls = {each.message.invocation_id: each for each in firsts}
    joined = run_with_retries(alias, lambda: _insert_in_time(alias, calls))
    holders = {each.call: each for each in joined}
    later = [
        replace(
            holders.get(first) or Joined(call=first, invocation_id=first, root_id=first),
            call=each,
            replaced=None,
        )
        for first, others in equals.items()
        for each in others
    ]
    return [*joined, *later]


def _group_equal(
    messages: Sequence[Outgoing],
) -> tuple[list[Outgoing], Mapping[UUID, Sequence[UUID]]]:
    """Return the first call of each key, and the ids of those that equal it, by its id.

    One whose arguments the others replace has those of the last.
    """
    firsts: dict[UUID, Outgoing] = {}
    equals: dict[UUID, list[UUID]] = {}
    for each in messages:
        key, id = _key_of(each).key, each.message.invocation_id
        first = firsts.setdefault(key, each)
        if first is each:
            continue
        first_id = first.message.invocation_id
        if each.on_conflict == "raise":
            raise UniqueConflict(task_name=each.message.task_name, invocation_id=first_id)
        if each.on_conflict == "replace":
            firsts[key] = _with_id(each, first_id)
        equals.setdefault(first_id, []).append(id)
    # In one order, so that two transactions with the same keys can't deadlock.
    return [firsts[key] for key in sorted(firsts)], equals


def _insert_in_time(alias: str, calls: Calls) -> list[Joined]:
    """See insert_unique(). Another thread ends a wait that takes too long."""
    connection = connections[alias]
    limit_s = interrupts.statement_limit_s(connection, WAIT_LIMIT_S + ROW_LIMIT_S * len(calls))
    with interrupts.interrupt_after(limit_s) as work:
        try:
            return _insert(alias, calls)
        except DatabaseError as error:
            if not work.was_interrupted:
                raise
            reason = (
                f"for {limit_s:.0f} s, another transaction that has made an equal call has neither "
                "been committed nor rolled back"
            )
            raise _busy(calls, reason) from error


def _insert(alias: str, calls: Calls) -> list[Joined]:
    joined: list[Joined] = []
    rows = queued_rows(list(calls.values()))
    looks_first = statements().looks_before_insert()
    for _ in range(MAX_TRIES):
        if not looks_first:
            written = statements().insert_unique(rows)
            rows = [row for row in rows if row["id"] not in written]
        looks_first = False
        if rows:
            rows = _join(alias, rows, calls, joined)
        if not rows:
            return joined
    raise _busy(calls, f"its key has changed hands {MAX_TRIES} times meanwhile")


def _join(alias: str, rows: Sequence[Row], calls: Calls, joined: list[Joined]) -> list[Row]:
    """Join the calls of these rows to those that hold their keys; return the rows that are left.

    What a run does before the caller's transaction ends may miss what this transaction has
    written. So the record that is joined while it is queued stays locked until then, and workers
    skip it.
    """
    # Replacing writes the row, which locks it as well.
    locks = is_in_transaction(alias) and any(
        row["unique_while"] == "queued" and calls[row["id"]].on_conflict == "return" for row in rows
    )
    found = statements().find_holders(rows, lock=locks)
    stored = {holder["id"] for holder in found}
    holders = {holder["unique_key"]: holder for holder in found}
    left: list[Row] = []
    for row in rows:
        if row["id"] in stored:
            continue  # The same invocation, enqueued once more.
        holder = holders.get(row["unique_key"])
        one = None if holder is None else _join_one(calls[row["id"]], row, holder)
        if one is None:
            left.append(row)
        else:
            joined.append(one)
    return left


def _join_one(outgoing: Outgoing, row: Row, holder: Row) -> Joined | None:
    """Join a call to the one that holds its key; return None where it holds it no longer."""
    if _is_over(holder):
        statements().free_key(holder)
        return None
    if holder["status"] == Status.QUEUED and is_expired(holder):
        expire([holder["id"]])  # which frees its key
        return None
    if outgoing.on_conflict == "raise":
        raise UniqueConflict(task_name=outgoing.message.task_name, invocation_id=holder["id"])
    if outgoing.on_conflict == "return":
        return _joined(outgoing, holder)
    replaced = _with_id(outgoing, holder["id"], headers=holder["headers"] or {})
    is_earlier = _is_due_earlier(row, holder)
    if not statements().replace_queued(queued_row(replaced), holder, is_sent=not is_earlier):
        return None
    return replace(_joined(outgoing, holder), replaced=replaced, is_earlier=is_earlier)


def _joined(outgoing: Outgoing, holder: Row) -> Joined:
    return Joined(
        call=outgoing.message.invocation_id,
        invocation_id=holder["id"],
        root_id=holder["root_id"] or holder["id"],
    )


def _is_over(holder: Row) -> bool:
    """Return whether a record that has succeeded has kept its key for long enough."""
    until = holder["unique_until"]
    return holder["status"] == Status.SUCCESS and (until is None or until <= holder["now"])


def _is_due_earlier(row: Row, holder: Row) -> bool:
    """Return whether a call is due earlier than the one it replaces, whose message comes late."""
    if holder["run_after"] is None:
        return False
    now: datetime = holder["now"]
    due = row["run_after"] or now + timedelta(seconds=row["delay_s"] or 0)
    return bool(due < holder["run_after"])


def _with_id(outgoing: Outgoing, id: UUID, *, headers: Mapping[str, Any] | None = None) -> Outgoing:
    """Return a message under another id, with these headers beside its own."""
    merged = {**(headers or {}), **outgoing.message.headers}
    message = replace(outgoing.message, invocation_id=id, headers=merged)
    return replace(outgoing, message=message, body=message.encode())


def _key_of(outgoing: Outgoing) -> UniqueKey:
    key = outgoing.message.unique
    assert key is not None
    return key


def _busy(calls: Calls, reason: str) -> UniqueKeyBusy:
    names = sorted({each.message.task_name for each in calls.values()})
    return UniqueKeyBusy(task_name=", ".join(names), reason=reason)
