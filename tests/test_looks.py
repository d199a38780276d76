"""A record tells when somebody must look at it again, and nobody looks before then."""

import threading
import uuid
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from lambda_tasks import conf, operations, runtime
from lambda_tasks.core.lifecycle import GRACE, SQS_TERMS, TABLE_TERMS, Claim, Release
from lambda_tasks.core.message import Message
from lambda_tasks.core.retries import MAX_DELAY_S
from lambda_tasks.enqueue.relay import RESEND_LOST_AFTER, RESEND_UNRUN_AFTER
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery, Granted, ResolvedDelivery, TableQueue
from lambda_tasks.records import table_queue
from lambda_tasks.records.claims import RecordClaims
from lambda_tasks.records.clock import Now
from lambda_tasks.records.looks import PUT_FIRST
from lambda_tasks.records.postgres import LEVELS_QUERY
from lambda_tasks.records.table_queue import LATELY_S, LOOK_AT_ALL_EVERY_S
from lambda_tasks.tasks import cleanup_task_records
from tests.app import tasks
from tests.conftest import Handle, Task, bodies_in, body

pytestmark = pytest.mark.django_db(transaction=True)

HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
A_WHILE_S: Final = 20
"""What a test may take between two looks at a clock."""

needs_postgres = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="its counters, plans and levels of isolation"
)
claims = RecordClaims()


def look() -> int:
    """One round of the relay, as it runs by itself."""
    return async_to_sync(runtime.current().relay.run_once)()


def due_in_table(limit: int = 10) -> list[Message]:
    with runtime.current().table_queue.lock_due(["table"], limit=limit) as messages:
        return list(messages)


def waits_s(id: uuid.UUID) -> float:
    """Seconds from now, by the database's clock, until somebody must look at a record."""
    look_at, moment = TaskRecord.objects.values_list("look_at", Now()).get(id=id)
    assert look_at is not None
    return float((look_at - moment).total_seconds())


def about(time: timedelta) -> Any:
    return pytest.approx(time.total_seconds(), abs=A_WHILE_S)


def stored(queue: str = "default", **columns: Any) -> uuid.UUID:
    """A record that is to be looked at now."""
    given = {
        "task_name": tasks.add.name, "kwargs": {"a": 1}, "queue": queue, "enqueued_at": Now(),
        "look_at": Now(),
    }  # fmt: skip
    return TaskRecord.objects.create(**(given | columns)).id


def claimed(id: uuid.UUID, *, from_table: bool = False, lease: timedelta = 5 * MINUTE) -> Claim:
    message = Message(
        task_name=tasks.add.name, kwargs={}, invocation_id=id, durable=True, has_arguments=False
    )
    wanted = ResolvedDelivery(
        delivery=Delivery(id=str(id), source="", fallback_id=id),
        message=message,
        task=tasks.add,
        look=TABLE_TERMS if from_table else SQS_TERMS,
    )
    verdict = claims.claim([wanted], lease=lease, max_attempts=3)[id]
    assert isinstance(verdict, Granted)
    return verdict.claim


def told() -> dict[str, float]:
    """What the one task that has run has found out about its record, which is finished."""
    record = TaskRecord.objects.get()
    assert record.look_at is None
    times: Any = record.result
    assert times is not None, record.traceback
    return dict(times)


# From its first to its last


@pytest.mark.parametrize(
    ("queue_name", "delay", "first_look"),
    [
        ("default", None, GRACE),
        ("default", 10 * MINUTE, GRACE),
        ("default", 2 * HOUR, 2 * HOUR - timedelta(seconds=MAX_DELAY_S)),
        ("heavy", None, GRACE),
        ("table", None, timedelta(0)),
        ("table", 10 * MINUTE, 10 * MINUTE),
        ("table", 2 * HOUR, 2 * HOUR),
    ],
)
@pytest.mark.usefixtures("queue")
def test_it_is_written_with_the_record(
    queue_name: str, delay: timedelta | None, first_look: timedelta
) -> None:
    task = tasks.add.using(queue=queue_name)
    if delay is not None:
        task = task.using(run_after=delay)

    single = task.execute_on_commit(a=1)
    several = task.execute_many_on_commit([{"a": 2}, {"a": 3}])

    for invocation in (single, *several):
        assert waits_s(invocation.id) == about(first_look)


def test_a_call_with_a_delay_tells_it_too(queue: str) -> None:
    later = tasks.add.using(queue="table", delay=600).execute_on_commit(a=1)

    assert waits_s(later.id) == about(10 * MINUTE)


def test_a_direct_message_has_it_from_its_claim_to_its_end(handle: Handle) -> None:
    assert handle(body(tasks.tell_own_look_direct)) == []

    assert told()["look"] == about(GRACE)


def test_a_claim_of_what_sqs_delivers_leaves_it_alone(
    queue: str, work_off: Callable[[str], int]
) -> None:
    task: Task = tasks.tell_own_look
    task.execute_on_commit()

    work_off(queue)

    assert told()["look"] == about(GRACE)


def test_a_claim_from_the_table_moves_it_to_the_end_of_the_lease(queue: str) -> None:
    task: Task = tasks.tell_own_look
    task.using(queue="table").execute_on_commit()

    call_command("lambda_tasks", "worker", "--queue", "table", "--once")

    times = told()
    assert times["look"] == pytest.approx(times["lease"], abs=0.01)


def test_a_claim_brings_the_look_forward_that_is_to_come_after_its_lease(queue: str) -> None:
    """A worker that dies then is not found a day later."""
    id = stored(sent_at=Now(), look_at=Now() + RESEND_UNRUN_AFTER)

    claimed(id, lease=5 * MINUTE)

    assert waits_s(id) == about(5 * MINUTE)


@pytest.mark.parametrize("queue_name", ["default", "table"])
def test_an_end_leaves_none(queue: str, work_off: Callable[[str], int], queue_name: str) -> None:
    for task in (tasks.leave_effect, tasks.write_and_fail, tasks.limited):
        task.using(queue=queue_name).execute_on_commit(name="x")
    cancelled = tasks.add.using(queue=queue_name).execute_on_commit(a=1).record()
    assert cancelled is not None
    assert cancelled.cancel()

    work_off(queue)
    call_command("lambda_tasks", "worker", "--queue", "table", "--once")

    ended = TaskRecord.objects.exclude(status="QUEUED")
    assert set(ended.values_list("status", "look_at")) == {
        ("CANCELLED", None), ("FAILED", None), ("RETRYING", None), ("SUCCESS", None),
    }  # fmt: skip


@pytest.mark.usefixtures("queue")
def test_what_is_given_back_to_the_table_is_due_at_once() -> None:
    id = stored("table")
    claim = claimed(id, from_table=True)
    assert due_in_table() == []

    claims.release([claim], Release(counts=False, is_redelivered=False))

    assert [message.invocation_id for message in due_in_table()] == [id]


@pytest.mark.usefixtures("queue")
def test_an_extension_leaves_it_alone_and_nobody_takes_what_is_held() -> None:
    id = stored("table")
    claim = claimed(id, from_table=True, lease=timedelta(0))
    claims.extend([claim], HOUR)
    before = TaskRecord.objects.values().get(id=id)

    assert due_in_table() == []
    assert look() == 0

    assert TaskRecord.objects.values().get(id=id) == before


# What the relay finds


def test_what_was_just_stored_is_left_to_the_process_that_stored_it(
    sqs: LocalSqs, queue: str
) -> None:
    invocation = tasks.add.execute_on_commit(a=1)
    sqs.purge(queue)
    TaskRecord.objects.update(sent_at=None)

    assert look() == 0

    TaskRecord.objects.update(look_at=F("look_at") - GRACE)
    assert look() == 1
    assert [each["invocation_id"] for each in bodies_in(sqs, queue)] == [str(invocation.id)]


@pytest.mark.parametrize(
    ("columns", "then"),
    [
        ({"sent_at": Now() - HOUR}, RESEND_UNRUN_AFTER - HOUR),
        ({"sent_at": Now() - HOUR, "run_after": Now() + HOUR}, RESEND_UNRUN_AFTER + HOUR),
        ({"run_after": Now() + HOUR}, HOUR - timedelta(seconds=MAX_DELAY_S)),
        ({"status": "RUNNING", "lease_until": Now() - MINUTE}, RESEND_LOST_AFTER - MINUTE),
    ],
    ids=["sent", "sent and due later", "due later than it can be delayed", "just lost"],
)
def test_what_it_is_not_time_for_says_when_it_is(
    queue: str, columns: dict[str, Any], then: timedelta
) -> None:
    id = stored(**columns)

    assert look() == 0

    assert waits_s(id) == about(then)
    before = TaskRecord.objects.values().get(id=id)
    assert look() == 0
    assert TaskRecord.objects.values().get(id=id) == before, "nobody has looked meanwhile"


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"run_after": Now() - HOUR},
        {"run_after": Now() + MINUTE},
        {"sent_at": Now() - RESEND_UNRUN_AFTER - MINUTE},
        {
            "sent_at": Now() - 2 * RESEND_UNRUN_AFTER,
            "run_after": Now() - RESEND_UNRUN_AFTER - MINUTE,
        },
        {"status": "RUNNING", "lease_until": Now() - RESEND_LOST_AFTER - MINUTE},
    ],
    ids=["unsent", "and due", "and due soon", "sent a day ago", "due a day ago", "lost"],
)
def test_what_it_is_time_for_is_sent_once(
    sqs: LocalSqs, queue: str, columns: dict[str, Any]
) -> None:
    id = stored(**columns)
    assert stored(look_at=Now() + MINUTE), "to which nobody must look yet"

    assert [look(), look()] == [1, 0]

    counts = sqs.counts(queue)
    assert counts["visible"] + counts["delayed"] == 1
    assert waits_s(id) > RESEND_LOST_AFTER.total_seconds() - A_WHILE_S


def test_a_look_sends_all_that_is_due_however_long_it_reads(queue: str) -> None:
    stored(run_after=Now() - HOUR, look_at=Now() - HOUR)
    first = TaskRecord.objects.get()
    columns = {each.attname: getattr(first, each.attname) for each in TaskRecord._meta.fields}
    TaskRecord.objects.bulk_create(TaskRecord(**columns | {"id": uuid.uuid4()}) for _ in range(899))
    without_a_time = stored()

    look()

    assert TaskRecord.objects.get(id=without_a_time).sent_at


def test_many_that_wait_for_a_later_time_hold_up_no_other(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_tasks.records.outbox.MAX_UPDATED_TOGETHER", 10)
    for _ in range(35):
        stored(sent_at=Now(), look_at=Now() - HOUR)
    stored()

    assert look() == 1

    assert not TaskRecord.objects.filter(sent_at=None).exists()
    assert TaskRecord.objects.filter(look_at__gt=Now() + 23 * HOUR).count() == 35


def test_a_record_that_another_has_locked_is_passed_over(queue: str) -> None:
    if not connection.features.has_select_for_update_skip_locked:
        pytest.skip("This database locks no rows.")
    locked, free = (stored(sent_at=Now()) for _ in range(2))
    looked: list[int] = []

    def look_beside() -> None:
        looked.append(look())
        connections.close_all()

    with transaction.atomic():
        TaskRecord.objects.select_for_update().get(id=locked)
        looking = threading.Thread(target=look_beside)
        looking.start()
        looking.join(60)
        assert looked == [0], "it waits for the lock"

    assert waits_s(locked) <= 0
    assert waits_s(free) == about(RESEND_UNRUN_AFTER)


def test_a_queue_without_settings_waits_and_is_told(queue: str, caplog: Any) -> None:
    gone = stored("gone")

    assert look() == 0

    assert waits_s(gone) == about(MINUTE)
    assert "no queue 'gone'" in caplog.text


@pytest.mark.parametrize("queue_name", ["default", "table"])
@pytest.mark.usefixtures("queue")
def test_nobody_looks_at_what_only_its_delivery_can_run(queue_name: str) -> None:
    stored(queue_name, secrets="")

    assert look() == 0
    assert due_in_table() == []


# What the table's look finds


@pytest.mark.usefixtures("queue")
def test_the_tables_look_finds_what_is_due_and_what_is_lost() -> None:
    queued = stored("table")
    lost = stored("table", status="RUNNING", lease_until=Now() - MINUTE)
    stored("table", look_at=Now() + MINUTE)
    stored("table", status="RUNNING", lease_until=Now() + MINUTE)
    stored("default")

    assert {each.invocation_id for each in due_in_table()} == {queued, lost}


@pytest.mark.usefixtures("queue")
def test_of_several_queues_what_has_priority_comes_first_and_then_what_is_due_for_longest() -> None:
    wanted = [
        stored(queue, priority=priority, look_at=Now() - age * MINUTE)
        for queue, priority, age in [
            ("b", 7, 1), ("a", 0, 9), ("b", 0, 8), ("a", 0, 7), ("b", 0, 6), ("a", -3, 99),
        ]
    ]  # fmt: skip
    stored("c", priority=100, look_at=Now() - HOUR)

    def first(limit: int) -> list[uuid.UUID]:
        with runtime.current().table_queue.lock_due(["a", "b"], limit=limit) as messages:
            return [each.invocation_id for each in messages]

    for limit in (1, 2, 4, 6, 10):
        assert first(limit) == wanted[:limit]


@pytest.mark.usefixtures("queue")
def test_what_the_table_finds_too_early_says_when_it_is_due() -> None:
    # Such as records of a queue that was SQS's until now.
    early, due = stored("table", run_after=Now() + 10 * MINUTE), stored("table")

    assert [each.invocation_id for each in due_in_table(limit=1)] == [due]

    assert waits_s(early) == about(10 * MINUTE)


@pytest.fixture
def worker_clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clock of a worker, which stands still."""
    clock: Any = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(table_queue, "time", clock)
    return clock


@pytest.mark.usefixtures("queue")
def test_a_worker_that_finds_tasks_looks_on_from_the_first_of_them(worker_clock: Any) -> None:
    table = runtime.current().table_queue
    first = stored("table", look_at=Now() - MINUTE)
    assert found_by(table) == [first]
    late = stored("table", look_at=Now() - HOUR)  # by a transaction that was long
    urgent = stored("table", priority=9, look_at=Now() - MINUTE)
    second = stored("table")

    with CaptureQueriesContext(connection) as captured:
        soon = found_by(table)
    worker_clock.now += LOOK_AT_ALL_EVERY_S
    later = found_by(table)

    assert soon == [first, second], "what it has left to others, and what came after it"
    assert sum("SELECT" in each["sql"] for each in captured.captured_queries) == 1
    assert later == [urgent, late, first, second]


@pytest.mark.usefixtures("queue", "worker_clock")
def test_a_worker_that_finds_nothing_beyond_looks_at_all_at_once() -> None:
    table = runtime.current().table_queue
    first = stored("table", look_at=Now() - MINUTE)
    assert found_by(table) == [first]
    late = stored("table", look_at=Now() - HOUR)
    TaskRecord.objects.filter(id=first).delete()

    assert found_by(table) == [late]


@pytest.mark.usefixtures("queue")
def test_an_idle_worker_looks_first_where_it_has_found_something_lately(worker_clock: Any) -> None:
    table = runtime.current().table_queue

    def become_idle() -> None:
        TaskRecord.objects.all().delete()
        assert found_by(table) == []

    stored("table", priority=5)
    assert found_by(table)
    become_idle()
    usual, urgent = stored("table", priority=5), stored("table", priority=9)

    with CaptureQueriesContext(connection) as captured:
        soon = found_by(table)

    assert soon == [usual]
    assert sum("SELECT" in each["sql"] for each in captured.captured_queries) == 1
    assert found_by(table) == [urgent, usual], "a look at all"
    worker_clock.now += LATELY_S
    become_idle()
    usual, urgent = stored("table", priority=5), stored("table", priority=9)
    assert found_by(table) == [urgent, usual], "none was found lately"


@pytest.mark.usefixtures("queue", "worker_clock")
def test_a_worker_finds_what_is_in_a_paused_queue_once_at_most() -> None:
    """Each time a claim would refuse it, and put it behind what was called later."""
    table = runtime.current().table_queue
    stored("table")
    assert len(found_by(table)) == 1
    TaskRecord.objects.all().delete()
    assert found_by(table) == []

    operations.pause_queue("table", by="anna")
    called = stored("table")
    assert [len(found_by(table)) for _ in range(6)] == [1, 0, 0, 0, 0, 0]

    operations.resume_queue("table", by="anna")
    assert found_by(table) == [called]


@pytest.mark.usefixtures("queue", "worker_clock")
def test_a_worker_that_has_found_what_is_put_first_looks_at_all_each_time() -> None:
    """Else a place of a limit would be idle until a worker looks at all that is due."""
    table = runtime.current().table_queue
    stored("table", look_at=Now() - PUT_FIRST)
    lost = stored("table", status="RUNNING", lease_until=Now() - MINUTE)
    assert len(found_by(table)) == 2
    TaskRecord.objects.exclude(id=lost).delete()
    assert found_by(table) == [lost]

    handed_over = stored("table", look_at=Now() - PUT_FIRST)

    assert found_by(table) == [handed_over, lost]


@pytest.mark.usefixtures("queue", "worker_clock")
def test_what_a_worker_could_not_claim_is_found_by_its_next_look() -> None:
    table = runtime.current().table_queue
    late, first = (stored("table", look_at=Now() - age * HOUR) for age in (2, 1))
    assert found_by(table, limit=1) == [late]
    TaskRecord.objects.filter(id=late).update(look_at=Now() - 3 * HOUR)

    with pytest.raises(ZeroDivisionError), table.lock_due(["table"], limit=10) as due:
        assert [each.invocation_id for each in due] == [first]
        raise ZeroDivisionError

    assert found_by(table) == [late, first]


def found_by(table: TableQueue, limit: int = 10) -> list[uuid.UUID]:
    with table.lock_due(["table"], limit=limit) as messages:
        return [each.invocation_id for each in messages]


# Who parks a record, and who marks it


def test_a_slow_sender_can_not_mark_what_was_parked_meanwhile(
    sqs: LocalSqs, queue: str, handle: Handle
) -> None:
    """Marked as sent it would be sent again a day after it was due."""
    task = tasks.add.using(run_after=20 * HOUR)
    outgoing = task.serialize(a=1)
    early = body(tasks.add_direct, a=1, _id=outgoing["message"]["invocation_id"])
    due = f', "run_after": "{outgoing["run_after"]}"}}'
    assert handle(early[:-1] + due) == [], "it is parked"
    record = TaskRecord.objects.get()
    sent = _outgoing_of(record)

    runtime.current().outbox.mark_sent([sent])
    look()

    record.refresh_from_db()
    assert record.sent_at is None
    assert waits_s(record.id) == about(20 * HOUR - timedelta(seconds=MAX_DELAY_S))


def _outgoing_of(record: TaskRecord) -> Any:
    from lambda_tasks.records.mapping import message_of, outgoing_of

    return outgoing_of(message_of(vars(record)), 0, conf.current().look_terms("default"))


def test_what_is_parked_late_is_sent_in_time(queue: str, handle: Handle) -> None:
    """Also where the relay had looked at it before, when it was sent."""
    id = stored(sent_at=Now(), run_after=Now() + 20 * HOUR)
    look()
    assert waits_s(id) > RESEND_UNRUN_AFTER.total_seconds()
    message = {"task_name": tasks.add.name, "kwargs": {}, "durable": True}

    assert handle(Message(invocation_id=id, **message).encode()) == []  # type: ignore[arg-type]
    look()

    assert waits_s(id) == about(20 * HOUR - timedelta(seconds=MAX_DELAY_S))


def test_what_is_due_later_than_its_queue_can_delay_it_waits_in_its_row(
    sqs: LocalSqs, queue: str
) -> None:
    later = tasks.add.using(run_after=2 * HOUR).execute_on_commit(a=1)

    assert sqs.counts(queue) == {"visible": 0, "in_flight": 0, "delayed": 0}
    assert TaskRecord.objects.get().sent_at is None
    TaskRecord.objects.update(
        run_after=F("run_after") - 106 * MINUTE, look_at=F("look_at") - 106 * MINUTE
    )
    assert look() == 1
    assert sqs.counts(queue) == {"visible": 0, "in_flight": 0, "delayed": 1}
    assert waits_s(later.id) <= 0


# What it costs


@needs_postgres
@pytest.mark.parametrize("step", ["mark as sent", "claim"])
def test_a_step_between_the_call_and_the_end_touches_no_index(queue: str, step: str) -> None:
    # In a page of its own, with room.
    tasks.add.execute_many_on_commit([{"a": number} for number in range(5)])
    with connection.cursor() as cursor:
        cursor.execute("VACUUM FULL lambda_tasks_taskrecord")
    records = list(TaskRecord.objects.all())

    with transaction.atomic():
        updated, in_place = _updates()
        if step == "claim":
            for record in records:
                claimed(record.id)
        else:
            runtime.current().outbox.mark_sent([_outgoing_of(each) for each in records])
        assert _updates() == (updated + 5, in_place + 5)


def _updates() -> tuple[int, int]:
    """How many records this transaction has updated, and how many of these without an index."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_get_xact_tuples_updated(t), pg_stat_get_xact_tuples_hot_updated(t)"
            " FROM (SELECT 'lambda_tasks_taskrecord'::regclass::oid AS t) AS tables"
        )
        row: tuple[int, int] = cursor.fetchone()
        return row


FILL: Final = """
INSERT INTO lambda_tasks_taskrecord (
    id, task_name, kwargs, queue, priority, status, n_retries, n_continues, n_attempts, n_waits,
    enqueued_at, run_after, look_at, end_time
) SELECT
    gen_random_uuid(), 'x', '{}', %(queue)s, %(priority)s, %(status)s, 0, 0, 0, 0,
    now(), now() + interval '1 h' * number, now() + %(later)s::interval * number,
    CASE WHEN %(status)s = 'SUCCESS' THEN now() END
FROM generate_series(1, 20000) AS number
"""


@needs_postgres
@pytest.mark.parametrize("queue_name", ["default", "table"])
def test_a_look_reads_what_is_due_and_neither_what_is_finished_nor_what_waits(
    queue: str, queue_name: str
) -> None:
    due = [stored(queue_name) for _ in range(3)]
    with connection.cursor() as cursor:
        for status, later in (("SUCCESS", None), ("QUEUED", HOUR)):
            for priority in (0, 5):
                values: dict[str, Any] = {"status": status, "later": later}
                cursor.execute(FILL, values | {"queue": queue_name, "priority": priority})
        cursor.execute("ANALYZE lambda_tasks_taskrecord")
    pages: list[int] = []

    with connection.execute_wrapper(_count_pages(pages)):
        if queue_name == "table":
            found = [each.invocation_id for each in due_in_table()]
        else:
            messages = runtime.current().outbox.find_unsent(
                early=timedelta(0),
                lost_for=RESEND_LOST_AFTER,
                waiting_for=RESEND_UNRUN_AFTER,
                limit=1000,
            )
            found = [each.message.invocation_id for each in messages]

    assert sorted(found) == sorted(due)
    assert sum(pages) < 150, "of thousands"


@needs_postgres
def test_a_look_that_finds_nothing_is_one_statement_whatever_waits_for_later(
    queue: str, statements: Any
) -> None:
    for name in ("default", "other", "table"):
        for priority in (0, 5):
            stored(name, priority=priority, look_at=Now() + HOUR)
            stored(name, priority=priority, status="SUCCESS", look_at=None)

    with statements() as counted:
        assert look() == 0
        assert due_in_table() == []

    assert [each for each in counted if each not in ("BEGIN", "COMMIT")] == [LEVELS_QUERY] * 2
    assert counted.count("COMMIT") <= 1, "that of the worker's look"


@needs_postgres
def test_a_cleanup_reads_what_it_deletes_and_not_what_is_kept() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            FILL, {"status": "SUCCESS", "later": None, "queue": "default", "priority": 0}
        )
    old = stored(status="SUCCESS", look_at=None, end_time=Now() - timedelta(days=8))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE lambda_tasks_taskrecord")
    pages: list[int] = []

    with connection.execute_wrapper(_count_pages(pages)):
        assert cleanup_task_records(retention_days=7) == 1

    assert not TaskRecord.objects.filter(id=old).exists()
    assert sum(pages) < 50, "of hundreds"


def _count_pages(pages: list[int]) -> Any:
    """How many pages of tables and indexes each statement needs."""

    def execute_and_count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.lstrip().startswith(("SELECT", "WITH", "UPDATE")):
            with connection.connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params)
                plan = cursor.fetchone()[0][0]["Plan"]
            pages.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        return execute(sql, params, many, context)

    return execute_and_count
