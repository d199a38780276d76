"""The statements that differ from one database to another: both implementations keep one promise.

The first half says what that is, and runs on every database. The second half gives the same to
both and compares every column of what they leave. For that the clock of PostgreSQL stands still.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_tasks.core.lifecycle import (
    SQS_TERMS,
    Claim,
    Continued,
    End,
    Failed,
    Outcome,
    Raised,
    Retried,
    Succeeded,
)
from lambda_tasks.core.message import Message
from lambda_tasks.models import RunProgress, RunState, TaskRecord
from lambda_tasks.records.clock import Now
from lambda_tasks.records.encryption import UNAVAILABLE
from lambda_tasks.records.finishes import finished_columns
from lambda_tasks.records.mapping import CLAIM_COLUMNS, GRANTED_COLUMNS, Row, claim_of, row_of
from lambda_tasks.records.portable import ClaimTerms, PortableStatements
from lambda_tasks.records.postgres import PostgresStatements
from lambda_tasks.records.tables import latest_state
from tests.core.test_message import json_values, names, text

pytestmark = pytest.mark.django_db(transaction=True)

IS_POSTGRES: Final = connection.vendor == "postgresql"
needs_postgres = pytest.mark.skipif(
    not IS_POSTGRES, reason="PostgresStatements are for PostgreSQL; here only the portable ones run"
)

OURS, ANOTHERS = UUID(int=1), UUID(int=2)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LEASE: Final = timedelta(minutes=5)
WHEN: Final = datetime(2031, 2, 3, 4, 5, 6, 789_012, tzinfo=UTC)
TERMS: Final = ClaimTerms(
    token=OURS,
    lease=LEASE,
    worker_ids="us\n",
    max_attempts=3,
    may_rerun=frozenset({"app.tasks.f"}),
)
RAISED: Final = Raised("builtins.KeyError", "Traceback: é")
OUTCOMES: Final[list[Outcome]] = [
    Succeeded(),
    Succeeded({"rows": [1, 1.0, True, None, "Δ"]}),
    Succeeded(False),
    Succeeded(raised=RAISED),
    Failed(RAISED),
    Retried(RAISED, timedelta(seconds=5)),
    Continued({"page": 2}),
    Continued(None),
]
ODD_JSON: Final = [
    1, 1.0, True, 0, 0.0, False, "1", "", None, [], {}, [None], [[1], [1.0]], {"": {"": []}},
    -(2**63), 2**64, 1.5e-7, "Δ 😀 \" \\ \n %s {x} ', NULL", {"%(rows)s": "%"},
    [{"a": [{"b": None}]}],
]  # fmt: skip
OTHER_VALUES: Final[dict[str, Any]] = {
    "task_name": "app.tasks.another",
    "args": [1, {"b": 2}],
    "kwargs": {"a": 1.0},
    "backend": "at_once",
    "secrets": "gAAAAA==",
    "n_retries": 32_767,
    "n_continues": 32_767,
    "queue": "other",
    "group_key": "é 'group'",
    "priority": -100,
    "root_id": uuid4(),
    "retry_of": uuid4(),
    "headers": {"tenant": [1, "é"]},
    "enqueued_at": WHEN,
    "run_after": WHEN + HOUR,
    "expires_at": WHEN + 2 * HOUR,
    "unique_key": uuid4(),
    "unique_while": "queued",
    "unique_until": WHEN + 3 * HOUR,
    "workflow_id": uuid4(),
    "step": 7,
    "links": {"feeds": [[1, 0, 0, 1]], "inputs": {"é": ["step", 3]}},
}
"""For each column of a row one value that _row() does not have."""

NO_COLUMNS: Final = ("delay_s", "grace_s", "ahead_s", "age_s")
"""What of a row is no column."""

Rows = dict[UUID, dict[str, Any]]


@pytest.fixture(params=[PortableStatements, pytest.param(PostgresStatements, marks=needs_postgres)])
def sql(request: Any) -> PortableStatements:
    statements: PortableStatements = request.param(connection.alias)
    return statements


@pytest.fixture(autouse=True)
def _a_worker_whose_clock_is_wrong(monkeypatch: Any) -> None:
    """Two days wrong, so that a time that is not the database's shows."""
    now, seconds = timezone.now, time.time
    monkeypatch.setattr(timezone, "now", lambda: now() + 2 * DAY)
    monkeypatch.setattr(time, "time", lambda: seconds() + (2 * DAY).total_seconds())


def _row(**columns: Any) -> Row:
    message = Message(task_name="app.tasks.f", kwargs={"a": 1}, invocation_id=uuid4())
    return {**row_of(message, "default", SQS_TERMS), **columns}


def _record(**columns: Any) -> UUID:
    """A record in this state, which somebody else has written."""
    given = {"task_name": "app.tasks.f", "kwargs": {"a": 1}, "enqueued_at": WHEN, **columns}
    return TaskRecord.objects.create(**given).id


def _running(**columns: Any) -> UUID:
    held = {
        "status": "RUNNING", "claim_token": OURS, "n_attempts": 1, "worker_ids": "us\n",
        "start_time": WHEN, "lease_until": Now() + LEASE, "secrets": "gAAAAA==",
    }  # fmt: skip
    return _record(**{**held, **columns})


def _rows() -> Rows:
    """Every column of every record."""
    rows: Any = TaskRecord.objects.order_by().values()
    return {row["id"]: row for row in rows}


def _read(id: UUID) -> dict[str, Any]:
    return _rows()[id]


def _end(
    id: UUID, outcome: Outcome, *, token: UUID = OURS, ran_for: timedelta | None = None
) -> End:
    return End(Claim(id, token, 1), outcome, ran_for)


def _is_now(moment: datetime | None) -> bool:
    """By the database's clock, give or take what a test may last."""
    now: datetime = TaskRecord.objects.annotate(now=Now()).values_list("now", flat=True)[0]
    return moment is not None and abs(now - moment) < HOUR


def _exactly(value: object) -> str:
    """In which 1, 1.0 and true are not the same."""
    return json.dumps(value, sort_keys=True)


# insert_queued


@pytest.mark.parametrize("several", [False, True], ids=["alone", "with another"])
@pytest.mark.parametrize("column", OTHER_VALUES)
def test_a_row_is_stored_as_it_was_given(
    sql: PortableStatements, column: str, several: bool
) -> None:
    plain, other = _row(), _row(**{column: OTHER_VALUES[column]})

    sql.insert_queued([plain, other] if several else [other])

    for row in [plain, other] if several else [other]:
        stored = _read(row["id"])
        told = {name: value for name, value in row.items() if name not in NO_COLUMNS}
        if told["enqueued_at"] is None:
            assert _is_now(stored["enqueued_at"])
            del told["enqueued_at"]
        assert {name: stored[name] for name in told} == told


def test_every_column_of_a_row_has_been_another_once() -> None:
    assert set(_row()) - {"id", *NO_COLUMNS} == set(OTHER_VALUES)
    alike = [name for name, value in OTHER_VALUES.items() if _row()[name] == value]
    # 1 and 1.0 are, in Python alone.
    assert alike == ["kwargs"]


@pytest.mark.parametrize("count", [2, 300])
def test_rows_that_are_alike_are_stored_each_under_its_id(
    sql: PortableStatements, count: int
) -> None:
    rows = [_row() for _ in range(count)]

    sql.insert_queued(rows)

    stored = _rows()
    assert set(stored) == {row["id"] for row in rows}
    assert all(each["root_id"] == id for id, each in stored.items())
    assert all(each["kwargs"] == {"a": 1} for each in stored.values())


def test_what_is_stored_is_queued_and_nobody_has_it_yet(sql: PortableStatements) -> None:
    sql.insert_queued([row := _row()])

    stored = _read(row["id"])
    assert stored["status"] == "QUEUED"
    assert stored["n_attempts"] == 0
    empty = (
        "sent_at", "start_time", "end_time", "worker_ids", "claim_token", "lease_until", "result",
        "exception_class", "traceback", "run_after",
    )  # fmt: skip
    assert {name: stored[name] for name in empty} == dict.fromkeys(empty)


@pytest.mark.parametrize("is_sent", [False, True])
def test_what_is_stored_has_been_sent_where_that_is_said(
    sql: PortableStatements, is_sent: bool
) -> None:
    rows = [_row(), _row(queue="other")]

    sql.insert_queued(rows, is_sent=is_sent)

    assert [_is_now(_read(row["id"])["sent_at"]) for row in rows] == [is_sent] * 2


@pytest.mark.parametrize("field", ["args", "kwargs"])
@pytest.mark.parametrize(
    "parts",
    [[[value] for value in ODD_JSON], [[1, 1.0, True], [False, 0, 0.0]], [ODD_JSON]],
    ids=["each alone", "together with what Python takes for equal", "all together"],
)
def test_json_is_kept_exactly(sql: PortableStatements, field: str, parts: list[list[Any]]) -> None:
    for part in parts:
        columns = [{"value": value} if field == "kwargs" else [value] for value in part]
        rows = [_row(**{field: value}) for value in columns]

        sql.insert_queued(rows)

        kept = [_read(row["id"])[field] for row in rows]
        assert [_exactly(value) for value in kept] == [_exactly(value) for value in columns]


def test_rows_that_are_stored_at_once_tell_in_which_order(sql: PortableStatements) -> None:
    rows = [_row(age_s=-number * MICROSECOND.total_seconds()) for number in range(1, 6)]

    sql.insert_queued(rows[::-1])
    sql.insert_queued([alone := _row(age_s=7.0, enqueued_at=WHEN)])

    moments = [_read(row["id"])["enqueued_at"] for row in rows]
    assert [moment - moments[0] for moment in moments] == [n * MICROSECOND for n in range(5)]
    assert _read(alone["id"])["enqueued_at"] == WHEN, "as it was given"


@pytest.mark.parametrize("delays_s", [(60,), (60, 60), (60, None), (1, 900)])
def test_a_delay_is_reckoned_from_the_databases_now(
    sql: PortableStatements, delays_s: Sequence[int | None]
) -> None:
    rows = [_row(delay_s=delay_s) for delay_s in delays_s]

    sql.insert_queued(rows)

    for row in rows:
        stored = _read(row["id"])
        if row["delay_s"] is None:
            assert stored["run_after"] is None
        else:
            waits = stored["run_after"] - stored["enqueued_at"]
            assert abs(waits - timedelta(seconds=row["delay_s"])) < timedelta(seconds=0.5)


def test_a_moment_that_is_given_goes_before_a_delay(sql: PortableStatements) -> None:
    rows = [_row(delay_s=60, run_after=WHEN), _row(delay_s=60)]

    sql.insert_queued(rows)

    assert _read(rows[0]["id"])["run_after"] == WHEN
    assert _is_now(_read(rows[1]["id"])["run_after"])


def _other_than(row: Row) -> Row:
    """The same invocation, of which everything else is told otherwise."""
    return {**row, **OTHER_VALUES}


@pytest.mark.parametrize("status", ["QUEUED", "RUNNING", "SUCCESS"])
def test_to_insert_what_is_there_changes_nothing(sql: PortableStatements, status: str) -> None:
    sql.insert_queued([row := _row()])
    TaskRecord.objects.update(status=status, claim_token=ANOTHERS, n_attempts=2)
    before, new = _read(row["id"]), _row()

    sql.insert_queued([_other_than(row)])
    sql.insert_queued([_other_than(row), new], is_sent=True)
    claims = sql.insert_claimed([_other_than(row)], TERMS)

    assert claims == {}
    assert _read(row["id"]) == before
    assert set(_rows()) == {row["id"], new["id"]}


@pytest.mark.parametrize("is_claimed", [False, True])
def test_of_one_invocation_that_comes_twice_at_once_there_is_one_record(
    sql: PortableStatements, is_claimed: bool
) -> None:
    row, other = _row(), _row(queue="other")
    twice = [row, other, dict(row)]

    if is_claimed:
        sql.insert_claimed(twice, TERMS)
    else:
        sql.insert_queued(twice)

    assert set(_rows()) == {row["id"], other["id"]}


# insert_claimed


def _assert_returned_as_stored(claims: dict[UUID, Claim], ids: set[UUID]) -> None:
    """All claims or none, as the database can tell them or not; and what the records say."""
    assert set(claims) in (set(), ids)
    records = TaskRecord.objects.filter(id__in=claims).annotate(saved=latest_state())
    stored = records.values(*CLAIM_COLUMNS)
    assert claims == {row["id"]: claim_of(row, OURS) for row in stored}


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_inserted_claimed_is_held_by_the_one_who_claims(
    sql: PortableStatements, count: int
) -> None:
    rows = [_row(args=[number]) for number in range(count)]

    claims = sql.insert_claimed(rows, TERMS)

    for row in rows:
        stored = _read(row["id"])
        assert (stored["status"], stored["n_attempts"]) == ("RUNNING", 1)
        assert (stored["claim_token"], stored["worker_ids"]) == (OURS, "us\n")
        assert _is_now(stored["start_time"])
        assert abs(stored["lease_until"] - stored["start_time"] - LEASE) < timedelta(seconds=0.5)
        assert (stored["sent_at"], stored["end_time"]) == (None, None)
        assert stored["args"] == row["args"]
    _assert_returned_as_stored(claims, {row["id"] for row in rows})


def test_what_another_has_claimed_first_is_not_returned(sql: PortableStatements) -> None:
    theirs, new = _row(), _row()
    sql.insert_claimed([theirs], replace(TERMS, token=ANOTHERS, worker_ids="they\n"))

    claims = sql.insert_claimed([theirs, new], TERMS)

    assert _read(theirs["id"])["claim_token"] == ANOTHERS
    assert _read(theirs["id"])["worker_ids"] == "they\n"
    assert _read(new["id"])["claim_token"] == OURS
    _assert_returned_as_stored(claims, {new["id"]})


# claim


def claim(
    sql: PortableStatements, ids: Sequence[UUID], terms: ClaimTerms = TERMS
) -> dict[UUID, Claim]:
    """The claims that the statement itself returns."""
    return {id: claim_of(row, OURS) for id, row in sql.claim(ids, terms).items()}


BEGUN: Final[dict[str, Any]] = {"start_time": Now() - 2 * HOUR}
LOST: Final[dict[str, Any]] = {"claim_token": ANOTHERS, "lease_until": Now() - HOUR}
HELD: Final[dict[str, Any]] = {"claim_token": ANOTHERS, "lease_until": Now() + HOUR}
CLAIMABLE: Final[dict[str, dict[str, Any]]] = {
    "queued": {},
    "queued and due": {"run_after": Now() - HOUR},
    "queued and due within a second": {"run_after": Now() + timedelta(seconds=0.5)},
    "queued again, by the one who claims now": {"claim_token": None, "worker_ids": "us\n"},
    "queued, one attempt below the limit": {"n_attempts": 2, "worker_ids": "a\nb\n"},
    "lost": {"status": "RUNNING", "n_attempts": 1, "worker_ids": "a\n", **BEGUN, **LOST},
    "lost, one attempt below the limit": {"status": "RUNNING", "n_attempts": 2, **LOST},
}
UNCLAIMABLE: Final[dict[str, dict[str, Any]]] = {
    "queued and not due": {"run_after": Now() + HOUR},
    "queued, at the limit": {"n_attempts": 3},
    "lost, at the limit": {"status": "RUNNING", "n_attempts": 3, **LOST},
    "held": {"status": "RUNNING", "n_attempts": 1, **HELD},
    "lost, of this very claim": {"status": "RUNNING", **LOST, "claim_token": OURS},
    **{
        f"{status} with a {what} lease": {"status": status, "n_attempts": 1, **lease}
        for status in ("SUCCESS", "FAILED", "RETRYING", "CANCELLED")
        for what, lease in (("past", LOST), ("running", HELD))
    },
}


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
def test_what_is_due_or_lost_is_claimed_and_nothing_else(
    sql: PortableStatements, together: bool
) -> None:
    ids = {name: _record(**columns) for name, columns in (CLAIMABLE | UNCLAIMABLE).items()}
    before = _rows()

    returned: dict[UUID, Claim] = {}
    for part in [list(ids.values())] if together else [[id] for id in ids.values()]:
        returned |= claim(sql, part)

    after = _rows()
    assert {name for name, id in ids.items() if after[id] != before[id]} == set(CLAIMABLE)
    for name in CLAIMABLE:
        was, now = before[ids[name]], after[ids[name]]
        assert _is_now(now["start_time"])
        assert abs(now["lease_until"] - now["start_time"] - LEASE) < timedelta(seconds=0.5)
        assert now == was | {
            "status": "RUNNING",
            "claim_token": OURS,
            "n_attempts": was["n_attempts"] + 1,
            "worker_ids": (was["worker_ids"] or "") + "us\n",
            "start_time": now["start_time"],
            "lease_until": now["lease_until"],
        }
    _assert_returned_as_stored(returned, {ids[name] for name in CLAIMABLE})


def test_a_lost_run_that_must_not_be_repeated_is_not_claimed(sql: PortableStatements) -> None:
    queued, repeatable = _record(), _record(**CLAIMABLE["lost"])
    lost = _record(**CLAIMABLE["lost"], task_name="app.tasks.once")
    before = _read(lost)

    claims = claim(sql, [queued, lost, repeatable])
    claims |= claim(sql, [lost], replace(TERMS, may_rerun=frozenset()))

    assert _read(lost) == before
    _assert_returned_as_stored(claims, {queued, repeatable})
    assert [_read(id)["status"] for id in (queued, repeatable)] == ["RUNNING"] * 2
    claim(sql, [lost], replace(TERMS, may_rerun=frozenset({"app.tasks.once"})))
    assert _read(lost)["claim_token"] == OURS, "by another task's leave"


def test_a_lost_claim_that_had_not_begun_is_claimed_even_where_no_run_may_be_repeated(
    sql: PortableStatements,
) -> None:
    waited = _record(status="RUNNING", **LOST)

    claims = claim(sql, [waited], replace(TERMS, may_rerun=frozenset()))

    _assert_returned_as_stored(claims, {waited})
    assert (_read(waited)["claim_token"], _read(waited)["n_attempts"]) == (OURS, 1)


WAITING_CASES: Final = {
    "nobody": (set[str](), False),
    "those that are named": ({"fresh, named", "suspect, named"}, False),
    "suspects": (set[str](), True),
    "both": ({"fresh, named", "suspect, named"}, True),
    "all": ({"fresh", "fresh, named", "suspect", "suspect, named"}, False),
}


@pytest.mark.parametrize("who", WAITING_CASES)
def test_the_starts_of_those_that_wait_do_not_count(sql: PortableStatements, who: str) -> None:
    named, possible_poison_waits = WAITING_CASES[who]
    suspect = {"status": "RUNNING", "n_attempts": 1, "worker_ids": "a\n", **BEGUN, **LOST}
    ids = {
        "fresh": _record(),
        "fresh, named": _record(),
        "suspect": _record(**suspect),
        "suspect, named": _record(**suspect),
    }
    terms = replace(
        TERMS,
        waiting=frozenset(ids[each] for each in named),
        possible_poison_waits=possible_poison_waits,
    )
    both = list(ids.values())

    claims = claim(sql, both, terms)

    _assert_returned_as_stored(claims, set(both))
    for name, id in ids.items():
        may_be_poison = name.startswith("suspect")
        waits = name in named or (possible_poison_waits and may_be_poison)
        row = _read(id)
        assert (row["status"], row["claim_token"]) == ("RUNNING", OURS)
        assert row["n_attempts"] == may_be_poison + (not waits), name
        assert (row["start_time"] is None) is waits, name
        assert (row["worker_ids"] or "") == "a\n" * may_be_poison + "us\n" * (not waits), name


@pytest.mark.parametrize("begin", [True, False])
def test_a_record_is_inserted_with_its_start_or_without(
    sql: PortableStatements, begin: bool
) -> None:
    row = _row()

    sql.insert_claimed([row], TERMS, begin=begin)

    inserted = _read(row["id"])
    assert inserted["n_attempts"] == begin
    assert (inserted["start_time"] is not None) is begin
    assert (inserted["worker_ids"] or "") == "us\n" * begin


def test_a_start_is_counted_when_its_turn_comes(sql: PortableStatements) -> None:
    first, second = _record(n_attempts=1, worker_ids="a\n"), _record()
    terms = replace(TERMS, waiting=frozenset([first, second]))
    claims = list(claim(sql, [first, second], terms).values()) or [
        Claim(id, OURS, 1, has_started=False) for id in (first, second)
    ]

    started = sql.begin(claims, lease=2 * LEASE, worker_ids="us\n")

    assert started == {id: _read(id)["start_time"] for id in (first, second)}
    assert [_read(id)["n_attempts"] for id in (first, second)] == [2, 1]
    assert [_read(id)["worker_ids"] for id in (first, second)] == ["a\nus\n", "us\n"]
    for id in (first, second):
        row = _read(id)
        assert abs(row["lease_until"] - row["start_time"] - 2 * LEASE) < timedelta(seconds=0.5)


def test_a_start_counts_once_however_often_it_is_told(sql: PortableStatements) -> None:
    id = _record()
    sql.claim([id], replace(TERMS, waiting=frozenset([id])))
    waiting = Claim(id, OURS, 1, has_started=False)

    first, again = (sql.begin([waiting], lease=LEASE, worker_ids="us\n") for _ in range(2))

    assert first == again
    assert (_read(id)["n_attempts"], _read(id)["worker_ids"]) == (1, "us\n")


@pytest.mark.parametrize("lost", ["taken over", "cancelled"])
def test_the_start_of_a_lost_claim_does_not_count(sql: PortableStatements, lost: str) -> None:
    mine, others = _record(), _record()
    sql.claim([mine, others], replace(TERMS, waiting=frozenset([mine, others])))
    change = {"claim_token": ANOTHERS} if lost == "taken over" else {"status": "CANCELLED"}
    TaskRecord.objects.filter(id=others).update(**change)
    claims = [Claim(id, OURS, 1, has_started=False) for id in (mine, others)]

    assert sql.begin(claims, lease=LEASE, worker_ids="us\n").keys() == {mine}
    assert _read(others)["n_attempts"] == 0


def test_what_was_not_asked_for_is_not_claimed(sql: PortableStatements) -> None:
    asked_for, *_ = _record(), _record(), _record(**CLAIMABLE["lost"])
    before = _rows()

    sql.claim([asked_for, uuid4()], TERMS)

    assert {id for id, row in _rows().items() if row != before[id]} == {asked_for}


def test_the_terms_are_those_of_each_claim(sql: PortableStatements) -> None:
    first, second = _record(n_attempts=4), _record(n_attempts=4)

    sql.claim([first], TERMS)
    other = replace(TERMS, token=ANOTHERS, lease=2 * LEASE, worker_ids="they\n", max_attempts=5)
    sql.claim([second], other)

    assert _read(first)["status"] == "QUEUED"
    now = _read(second)
    assert (now["claim_token"], now["worker_ids"]) == (ANOTHERS, "they\n")
    assert abs(now["lease_until"] - now["start_time"] - 2 * LEASE) < timedelta(seconds=0.5)


# finish and finish_many

Finish = Callable[[PortableStatements, Sequence[End]], set[UUID]]


def _one_by_one(sql: PortableStatements, ends: Sequence[End]) -> set[UUID]:
    return {end.claim.invocation_id for end in ends if sql.finish(end)}


def _together(sql: PortableStatements, ends: Sequence[End]) -> set[UUID]:
    return set(sql.finish_many(ends))


each_way = pytest.mark.parametrize("finish", [_one_by_one, _together])


@each_way
@pytest.mark.parametrize("ran_for", [None, timedelta(0), timedelta(seconds=1.5), 2 * DAY], ids=str)
def test_each_end_is_written(
    sql: PortableStatements, finish: Finish, ran_for: timedelta | None
) -> None:
    kept = {"result": "old", "exception_class": "Old", "traceback": "old"}
    ends = [_end(_running(**kept), outcome, ran_for=ran_for) for outcome in OUTCOMES]
    beside = _running()
    before = _rows()

    held = finish(sql, ends)

    assert held == {end.claim.invocation_id for end in ends}
    after = _rows()
    assert after[beside] == before[beside]
    for end in ends:
        was, now = before[end.claim.invocation_id], after[end.claim.invocation_id]
        assert _is_now(now["end_time"])
        began = was["start_time"] if ran_for is None else now["end_time"] - ran_for
        assert abs(now["start_time"] - began) < timedelta(seconds=0.5)
        written = finished_columns(end.outcome)
        if isinstance(end.outcome, Failed):
            written |= {"look_at": now["look_at"], "broken_since": now["end_time"]}
        else:
            written["secrets"] = None
        assert _exactly(now["result"]) == _exactly(written.get("result", "old"))
        assert now == was | written | {name: now[name] for name in ("start_time", "end_time")}


@each_way
@pytest.mark.parametrize("keep_s", [0, 3600])
@pytest.mark.parametrize("secrets", [None, UNAVAILABLE, "encrypted"], ids=repr)
def test_only_what_has_failed_keeps_its_secrets_and_for_a_while(
    sql: PortableStatements,
    finish: Finish,
    settings: Any,
    secrets: str | None,
    keep_s: int,
) -> None:
    settings.LAMBDA_TASKS_KEEP_SECRETS = keep_s
    running = {"secrets": secrets, "look_at": Now() - HOUR}
    ends = [_end(_running(**running), outcome) for outcome in OUTCOMES]

    finish(sql, ends)

    after = _rows()
    for end in ends:
        now = after[end.claim.invocation_id]
        if not (isinstance(end.outcome, Failed) and keep_s):
            assert (now["secrets"], now["look_at"]) == (None, None)
        elif secrets:
            assert now["secrets"] == secrets
            assert now["look_at"] - now["end_time"] == timedelta(seconds=keep_s)
        else:
            assert (now["secrets"] or None, now["look_at"]) == (None, None)


LOST_CLAIMS: Final[dict[str, dict[str, Any]]] = {
    "taken over": {"claim_token": ANOTHERS},
    "given back": {"status": "QUEUED", "claim_token": None, "lease_until": None},
    "queued, with the token still there": {"status": "QUEUED"},
    "cancelled": {"status": "CANCELLED"},
    "done already": {"status": "SUCCESS"},
    "failed already": {"status": "FAILED"},
    "retried already": {"status": "RETRYING"},
}


@each_way
@pytest.mark.parametrize(
    "outcome", [OUTCOMES[1], *OUTCOMES[4:7]], ids=lambda each: type(each).__name__
)
def test_where_the_claim_no_longer_holds_nothing_is_written(
    sql: PortableStatements, finish: Finish, outcome: Outcome
) -> None:
    lost = [_running(**columns) for columns in LOST_CLAIMS.values()]
    held = [_running(), _running(lease_until=Now() - HOUR)]  # over, and nobody has taken it over
    before = _rows()
    ids = [held[0], *lost, uuid4(), held[1]]

    have_held = finish(sql, [_end(id, outcome, ran_for=LEASE) for id in ids])

    assert have_held == set(held)
    assert {id for id, row in _rows().items() if row != before[id]} == set(held)


@each_way
def test_each_end_needs_the_token_of_its_own_claim(sql: PortableStatements, finish: Finish) -> None:
    ours, theirs = _running(), _running(claim_token=ANOTHERS)

    assert (
        finish(sql, [_end(ours, Succeeded(), token=ANOTHERS), _end(theirs, Succeeded())]) == set()
    )
    ends = [_end(ours, Succeeded("ours")), _end(theirs, Succeeded("theirs"), token=ANOTHERS)]
    assert finish(sql, ends) == {ours, theirs}

    assert (_read(ours)["result"], _read(theirs)["result"]) == ("ours", "theirs")


@each_way
def test_json_of_results_is_kept_exactly(sql: PortableStatements, finish: Finish) -> None:
    ends = [_end(_running(), Succeeded(value)) for value in ODD_JSON]

    finish(sql, ends)

    after = _rows()
    results = [_exactly(after[end.claim.invocation_id]["result"]) for end in ends]
    assert results == [_exactly(value) for value in ODD_JSON]


# save_state, save_initial_state and show_progress


def _claim_of(id: UUID, attempt: int = 1) -> Claim:
    return Claim(id, OURS, attempt)


def _states() -> list[tuple[UUID, int, Any]]:
    states = RunState.objects.order_by("record_id", "attempt")
    return list(states.values_list("record_id", "attempt", "state"))


def test_json_of_states_and_progress_is_kept_exactly(sql: PortableStatements) -> None:
    saving, handed = [_running() for _ in ODD_JSON], [_record() for _ in ODD_JSON]

    for value, running, queued in zip(ODD_JSON, saving, handed, strict=True):
        assert sql.save_state(_claim_of(running), value)
        sql.save_initial_state(queued, value)
        if value is not None:
            sql.show_progress(_claim_of(running), value)

    for value, running, queued in zip(ODD_JSON, saving, handed, strict=True):
        record = TaskRecord.objects.get(id=running)
        kept = (record.state, TaskRecord.objects.get(id=queued).state, record.progress)
        assert [_exactly(each) for each in kept] == [_exactly(value)] * 3
        assert value is None or _is_now(record.progress_at)


@pytest.mark.parametrize("outcome", ["RUNNING", *LOST_CLAIMS])
def test_who_holds_its_claim_saves_and_shows_and_nobody_else(
    sql: PortableStatements, outcome: str
) -> None:
    holds = outcome == "RUNNING"
    id = _running() if holds else _running(**LOST_CLAIMS[outcome])
    sql.save_initial_state(id, "from the run before")
    before = _rows()

    for value in ("first", "last"):
        assert sql.save_state(_claim_of(id), value) is holds
        sql.show_progress(_claim_of(id), {"text": value})

    assert _rows() == before
    record = TaskRecord.objects.get()
    shown = (record.state, record.progress)
    assert shown == (("last", {"text": "last"}) if holds else ("from the run before", None))


def test_what_nobody_has_a_record_of_is_not_saved(sql: PortableStatements) -> None:
    assert not sql.save_state(_claim_of(uuid4()), "lost")
    sql.show_progress(_claim_of(uuid4()), "lost")

    assert not RunState.objects.exists()
    assert not RunProgress.objects.exists()


def test_each_attempt_has_a_state_of_its_own_and_the_last_is_the_records(
    sql: PortableStatements,
) -> None:
    id, other = _running(), _running()

    for attempt in (10, 9):
        sql.save_state(_claim_of(id, attempt), attempt)
    sql.save_initial_state(id, 0)
    sql.save_state(_claim_of(other), "other")

    assert [each for each in _states() if each[0] == id] == [(id, n, n) for n in (0, 9, 10)]
    assert TaskRecord.objects.get(id=id).state == 10
    records: Any = TaskRecord.objects
    assert records.with_progress().get(id=other).state == "other"


def test_a_claim_begins_with_the_last_state_of_its_invocation(sql: PortableStatements) -> None:
    states = {"lost": {"page": 1.0}, "handed on": [0], "of nothing": None, "overwritten": None}
    ids = {name: _record(**CLAIMABLE["lost"]) for name in states}
    TaskRecord.objects.filter(id=ids["handed on"]).update(status="QUEUED")
    for name in ("handed on", "overwritten"):
        sql.save_initial_state(ids[name], [0])
    for name in ("lost", "overwritten"):
        RunState.objects.create(record_id=ids[name], attempt=1, state=states[name])

    returned = claim(sql, list(ids.values()))

    _assert_returned_as_stored(returned, set(ids.values()))
    found = TaskRecord.objects.annotate(saved=latest_state()).values_list("id", "saved")
    assert dict(found) == {ids[name]: state for name, state in states.items()}


# mark_sent


def test_what_is_marked_has_been_sent_now_and_nothing_else_changes(
    sql: PortableStatements,
) -> None:
    queued, again = _record(), _record(sent_at=WHEN)
    running, done = _running(), _running(status="SUCCESS")
    lost, beside = _record(**CLAIMABLE["lost"]), _record(**CLAIMABLE["lost"])
    before = _rows()

    sql.mark_sent([queued, again, running, done, lost, uuid4()], HOUR)

    after = _rows()
    assert after[running] == before[running], "it writes its end, and nobody else meanwhile"
    for id in (queued, again, done, lost):
        assert _is_now(after[id]["sent_at"])
        lease_until = before[id]["lease_until"]
        if id == lost:
            lease_until = after[id]["lease_until"]
            assert abs(after[id]["sent_at"] - lease_until) < timedelta(seconds=0.5)
        assert after[id] == before[id] | {
            "sent_at": after[id]["sent_at"],
            "lease_until": lease_until,
        }
    assert after[beside] == before[beside]


def test_what_a_worker_has_refused_meanwhile_is_not_marked(sql: PortableStatements) -> None:
    in_its_row = _record(refused_at=Now(), n_waits=1, look_at=Now() + HOUR)
    in_its_queue = _record(refused_at=Now(), look_at=Now() + HOUR)
    sent_again = _record(refused_at=Now() - HOUR, n_waits=1, look_at=Now())

    sql.mark_sent([in_its_row, in_its_queue, sent_again], timedelta(0))

    after = _rows()
    assert after[in_its_row]["sent_at"] is None, "the relay sends it when its wait is over"
    assert _is_now(after[in_its_queue]["sent_at"])
    assert _is_now(after[sent_again]["sent_at"])


def test_a_record_that_another_has_locked_is_skipped_and_not_waited_for(
    sql: PortableStatements,
) -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("This database locks no rows.")
    locked, free = _record(), _record()
    is_locked, is_marked = threading.Event(), threading.Event()
    was_marked: list[bool] = []

    def lock() -> None:
        with transaction.atomic():
            TaskRecord.objects.select_for_update().get(id=locked)
            is_locked.set()
            was_marked.append(is_marked.wait(60))
        connection.close()

    locking = threading.Thread(target=lock)
    locking.start()
    is_locked.wait(60)
    sql.mark_sent([locked, free], HOUR)
    is_marked.set()
    locking.join()

    assert was_marked == [True], "it waited until the lock was gone"
    assert _read(locked)["sent_at"] is None
    assert _is_now(_read(free)["sent_at"])


# levels


def test_the_levels_are_those_with_something_to_look_at_now_or_soon(
    sql: PortableStatements,
) -> None:
    assert sql.levels(HOUR) == []
    for queue in ("b", "a"):
        for priority in (0, 7, -3, 0):
            _record(queue=queue, priority=priority, look_at=Now() + HOUR / 2)
            _record(queue=queue, priority=priority, look_at=Now() + DAY)
        _record(queue=queue, priority=7, look_at=Now() - DAY)
    _record(queue="a", priority=99)
    _record(queue="a", priority=5, look_at=Now() + DAY)
    _record(queue="c")
    _record(queue="d", look_at=Now() - DAY)

    assert sorted(sql.levels(timedelta(0))) == [("a", 7), ("b", 7), ("d", 0)]
    soon = [(queue, priority) for queue in "ab" for priority in (-3, 0, 7)]
    assert sorted(sql.levels(HOUR)) == [*soon, ("d", 0)]


# The same, to the last column

IDS: Final = [UUID(int=number) for number in range(100, 106)]
MICROSECOND, SECOND = timedelta(microseconds=1), timedelta(seconds=1)
OFFSETS: Final = [
    -DAY, -MICROSECOND, timedelta(0), MICROSECOND, SECOND - MICROSECOND, SECOND,
    SECOND + MICROSECOND, DAY,
]  # fmt: skip

moments = st.none() | st.sampled_from([WHEN + offset for offset in OFFSETS])
some_text = text.map(lambda value: value[:20])
optional_text = st.none() | some_text
optional_ids = st.none() | st.sampled_from(IDS)
unique_whiles = st.sampled_from([None, "queued", "unfinished"])
json_or_none = st.none() | json_values

rows_to_insert = st.fixed_dictionaries(
    {
        "id": st.sampled_from(IDS),
        "task_name": st.sampled_from(["app.tasks.f", "app.tasks.g"]) | names,
        "args": st.none() | st.lists(json_values, max_size=3),
        "kwargs": st.dictionaries(some_text, json_values, max_size=3),
        "backend": optional_text,
        "secrets": optional_text,
        "n_retries": st.integers(0, 32_767),
        "n_continues": st.integers(0, 32_767),
        "queue": st.sampled_from(["default", "other"]) | names,
        "group_key": optional_text,
        "priority": st.integers(-100, 100),
        "root_id": st.sampled_from(IDS),
        "retry_of": optional_ids,
        "headers": st.none() | st.dictionaries(some_text, json_values, max_size=3),
        "enqueued_at": moments,
        "run_after": moments,
        "expires_at": moments,
        "unique_key": optional_ids,
        "unique_while": unique_whiles,
        "unique_until": moments,
        "workflow_id": optional_ids,
        "step": st.none() | st.integers(0, 2**31 - 1),
        "links": st.none() | st.dictionaries(some_text, json_values, max_size=3),
        "delay_s": st.none() | st.integers(0, 900),
        "grace_s": st.sampled_from([0.0, 30.0]),
        "ahead_s": st.sampled_from([0.0, 900.0]),
        "age_s": st.integers(-10_000, 10**9).map(lambda microseconds: microseconds / 10**6),
    }
)
several_rows = st.lists(rows_to_insert, min_size=1, max_size=6)
records = st.fixed_dictionaries(
    {
        "task_name": st.sampled_from(["app.tasks.f", "app.tasks.g"]),
        "status": st.sampled_from([*["QUEUED", "RUNNING"] * 3, *TaskRecord.TaskStatus.values]),
        "claim_token": st.sampled_from([None, OURS, ANOTHERS]),
        "n_attempts": st.integers(0, 4),
        "run_after": moments,
        "look_at": moments,
        "lease_until": moments,
        "start_time": moments,
        "sent_at": moments,
        "worker_ids": st.sampled_from([None, "a\n", "a\nb\n"]),
        "cut_off_s": st.sampled_from([None, 1.5]),
        "expires_at": moments,
        "unique_key": st.booleans(),  # _left_by() makes a key of it
        "unique_while": unique_whiles,
        "unique_until": moments,
        "secrets": optional_text,
        "result": json_or_none,
        "exception_class": optional_text,
        "traceback": optional_text,
    }
)
tables = st.lists(records, min_size=1, max_size=len(IDS))
some_ids = st.lists(st.sampled_from(IDS), min_size=1, unique=True)
raised = st.builds(Raised, exception_class=some_text, traceback=text)
spans = st.timedeltas(timedelta(0), 400 * DAY)
outcomes = (
    st.builds(Succeeded, json_or_none, st.none() | raised)
    | st.builds(Failed, raised)
    | st.builds(Retried, raised, spans)
    | st.builds(Continued, json_or_none)
)
ends = st.lists(
    st.builds(
        End,
        st.builds(Claim, st.sampled_from(IDS), st.sampled_from([OURS, ANOTHERS]), st.just(1)),
        outcomes,
        st.none() | spans,
    ),
    min_size=1,
    unique_by=lambda end: end.claim.invocation_id,
)
terms = st.builds(
    ClaimTerms,
    token=st.sampled_from([OURS, ANOTHERS]),
    lease=spans,
    worker_ids=st.sampled_from(["us\n", "Δ\n"]),
    max_attempts=st.integers(0, 5),
    may_rerun=st.frozensets(st.sampled_from(["app.tasks.f", "app.tasks.g"])),
    from_table=st.booleans(),
)
in_one_table = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@contextmanager
def _standing_clock() -> Iterator[None]:
    """A transaction that is rolled back, in which it is always the same moment.

    A function of ours is found before PostgreSQL's own of that name.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA standing_clock")
        cursor.execute(
            "CREATE FUNCTION standing_clock.statement_timestamp() RETURNS timestamptz"
            f" LANGUAGE sql STABLE AS $$ SELECT timestamptz '{WHEN.isoformat()}' $$"
        )
        cursor.execute("SET LOCAL search_path = standing_clock, public, pg_catalog")
        yield
        transaction.set_rollback(True)


def _left_by(
    sql: PortableStatements,
    table: Sequence[dict[str, Any]],
    act: Callable[[PortableStatements], object],
) -> tuple[object, list[str]]:
    """What is returned, and each row as PostgreSQL writes it."""
    with _standing_clock():
        for id, columns in zip(IDS, table, strict=False):
            _record(id=id, **{**columns, "unique_key": id if columns["unique_key"] else None})
        returned = act(sql)
        with connection.cursor() as cursor:
            # As a row, which tells NULL from a JSON null.
            cursor.execute("SELECT record::text FROM lambda_tasks_taskrecord AS record ORDER BY id")
            return returned, [row for (row,) in cursor.fetchall()]


def _assert_same(
    table: Sequence[dict[str, Any]], act: Callable[[PortableStatements], object]
) -> None:
    portable = _left_by(PortableStatements(connection.alias), table, act)
    postgres = _left_by(PostgresStatements(connection.alias), table, act)

    assert postgres == portable


@needs_postgres
def test_the_clock_stands_still_where_records_are_compared() -> None:
    with _standing_clock():
        first = _record(sent_at=Now())
        second = _record(sent_at=Now())

        assert _read(first)["sent_at"] == _read(second)["sent_at"] == WHEN


@needs_postgres
@in_one_table
@given(several_rows, several_rows, st.booleans())
def test_both_insert_the_same(first: list[Row], second: list[Row], is_sent: bool) -> None:
    def insert(sql: PortableStatements) -> None:
        sql.insert_queued(first, is_sent=is_sent)
        sql.insert_waiting(second)

    _assert_same([], insert)


@needs_postgres
@in_one_table
@given(tables, several_rows)
def test_both_insert_the_same_unique_rows(table: list[dict[str, Any]], rows: list[Row]) -> None:
    stored: list[set[UUID]] = []

    def insert(sql: PortableStatements) -> None:
        before = set(_rows())
        stored.append(sql.insert_unique(rows) - before)

    _assert_same(table, insert)
    assert stored[0] == stored[1]


@needs_postgres
@in_one_table
@given(tables, several_rows, terms)
def test_both_insert_the_same_claims(
    table: list[dict[str, Any]], rows: list[Row], terms: ClaimTerms
) -> None:
    def insert(sql: PortableStatements) -> None:
        sql.insert_claimed(rows, terms)

    _assert_same(table, insert)


@needs_postgres
@in_one_table
@given(tables, some_ids, terms)
def test_both_claim_the_same(
    table: list[dict[str, Any]], ids: list[UUID], terms: ClaimTerms
) -> None:
    def claim_them(sql: PortableStatements) -> None:
        before = _rows()
        claimed = sql.claim(ids, terms)
        changed = {id: row for id, row in _rows().items() if row != before[id]}
        if claimed:
            stored = [{**row, "saved": None} for row in changed.values()]
            expected = {row["id"]: {name: row[name] for name in GRANTED_COLUMNS} for row in stored}
            assert claimed == expected

    _assert_same(table, claim_them)


@needs_postgres
@in_one_table
@given(tables, ends)
def test_both_write_the_same_ends(table: list[dict[str, Any]], ends: list[End]) -> None:
    _assert_same(table, lambda sql: _one_by_one(sql, ends))
    _assert_same(table, lambda sql: _together(sql, ends))


@needs_postgres
@in_one_table
@given(tables, ends)
def test_ends_are_the_same_together_and_one_by_one(
    table: list[dict[str, Any]], ends: list[End]
) -> None:
    for each in (PortableStatements, PostgresStatements):
        sql = each(connection.alias)
        apart = _left_by(sql, table, lambda sql: _one_by_one(sql, ends))

        assert _left_by(sql, table, lambda sql: _together(sql, ends)) == apart


@needs_postgres
@in_one_table
@given(tables, some_ids, spans)
def test_both_mark_the_same_as_sent(
    table: list[dict[str, Any]], ids: list[UUID], ahead: timedelta
) -> None:
    _assert_same(table, lambda sql: sql.mark_sent(ids, ahead))
