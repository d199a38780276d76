"""What operators ask of the tasks, by functions: counts, health, retry, replay and the others."""

import inspect
import logging
import uuid
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.utils.timezone import now

from lambda_tasks import operations
from lambda_tasks.errors import ArgumentsMismatch, InvalidFilter, NothingToRun, UnknownTask
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import RelayShift, RunProgress, RunState, TaskRecord
from tests.app import tasks
from tests.conftest import Handle, bodies_in, relay, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

SECOND: Final = timedelta(seconds=1)
MINUTE: Final = timedelta(minutes=1)
HOUR: Final = timedelta(hours=1)
ADD: Final = tasks.add.name


ENCRYPTED_ELSEWHERE: Final = '{"key": "unknown", "values": {"a": ""}}'
"""What the column `secrets` has, encrypted with a key that nobody here knows."""


def record(status: str = "FAILED", **fields: Any) -> TaskRecord:
    """A record of a call of `add` an hour ago, as it is in this status."""
    id = fields.pop("id", None) or uuid.uuid4()
    unfinished = status in ("QUEUED", "RUNNING")
    return TaskRecord.objects.create(
        **{
            "id": id,
            "root_id": id,
            "task_name": ADD,
            "kwargs": {"a": 1},
            "status": status,
            "enqueued_at": now() - HOUR,
            "start_time": None if status == "QUEUED" else now() - HOUR,
            "end_time": None if unfinished else now() - MINUTE,
            "n_attempts": 0 if status == "QUEUED" else 1,
            "look_at": now() if unfinished else None,
            "lease_until": now() + MINUTE if status == "RUNNING" else None,
            "claim_token": None if status == "QUEUED" else uuid.uuid4(),
            "exception_class": "builtins.ValueError" if status == "FAILED" else None,
            "traceback": "Traceback\nValueError: what was wrong" if status == "FAILED" else None,
            **fields,
        }
    )


def ticked(ago: timedelta = timedelta(0)) -> None:
    RelayShift.objects.update_or_create(
        name="relay", defaults={"next_at": now() - ago + MINUTE, "token": uuid.uuid4()}
    )


# stats and health


def test_stats_count_what_waits_runs_and_has_ended_by_queue_and_task() -> None:
    record("QUEUED", enqueued_at=now() - 10 * MINUTE)
    record("QUEUED", queue="other", run_after=now() + HOUR)
    record("QUEUED", queue="other", enqueued_at=now() - MINUTE, look_at=now() + HOUR)
    record("RUNNING")
    record("RUNNING", lease_until=now() - 5 * MINUTE)
    record("RUNNING", lease_until=now() - HOUR, task_name="shop.tasks.lost")
    for status in ("SUCCESS", "SUCCESS", "FAILED", "RETRYING", "CANCELLED"):
        record(status)
    record("SUCCESS", end_time=now() - 2 * HOUR)
    record("FAILED", look_at=now() + HOUR)  # it keeps its secrets for a while

    found = operations.stats()

    assert found.is_complete
    total = found.total
    assert (total.waiting, total.delayed, total.running, total.stuck) == (2, 1, 2, 1)
    assert (total.succeeded, total.failed, total.retried, total.cancelled) == (2, 2, 1, 1)
    assert total.oldest_waiting_s == pytest.approx(600, abs=60)
    assert (found.queues["other"].waiting, found.queues["other"].delayed) == (1, 1)
    assert found.queues["other"].oldest_waiting_s == pytest.approx(60, abs=60)
    assert found.queues["table"] == operations.Counts()
    assert found.tasks["shop.tasks.lost"].stuck == 1
    assert found.now - found.ended_since == HOUR


def test_stats_say_where_they_stop_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lambda_tasks.records.counts.COUNTED", 3)
    for minutes in range(5):
        record("QUEUED")
        record("SUCCESS", end_time=now() - minutes * MINUTE)

    found = operations.stats()

    assert not found.is_complete
    assert found.total.waiting == 3
    assert found.total.succeeded == 3
    assert found.now - found.ended_since < 3 * MINUTE


def test_health_is_ok_where_all_goes_on() -> None:
    ticked()
    record("RUNNING")
    record("SUCCESS")

    found = operations.health()

    assert (found.status, found.problems) == ("ok", ())


def test_each_limit_that_is_exceeded_is_critical_and_half_of_it_a_warning() -> None:
    ticked(4 * MINUTE)
    record("QUEUED", enqueued_at=now() - HOUR)
    record("RUNNING", lease_until=now() - HOUR)
    for number in range(40):
        record("FAILED" if number % 4 else "SUCCESS")

    found = operations.health(max_failed=50)

    assert found.status == "critical"
    assert [(each.what, each.level) for each in found.problems] == [
        ("age", "critical"),
        ("tick", "warning"),
        ("stuck", "warning"),
        ("failures", "warning"),
        ("failures", "critical"),
    ]
    assert "75% of 40 runs have failed" in found.problems[-1].message


def test_health_of_a_queue_looks_at_that_queue_alone() -> None:
    ticked()
    record("QUEUED", queue="other", enqueued_at=now() - HOUR)

    assert operations.health(queue="default").status == "ok"
    assert operations.health(queue="other").status == "critical"
    with pytest.raises(InvalidFilter, match="Did you mean 'other'"):
        operations.health(queue="othr")


def test_where_nobody_ticks_health_says_so() -> None:
    assert [each.what for each in operations.health().problems] == ["tick"]
    ticked(HOUR)
    assert operations.health().status == "critical"


def test_what_is_stuck_is_what_nobody_goes_on_with() -> None:
    lost = record("RUNNING", lease_until=now() - HOUR)
    left = record("QUEUED")
    record("RUNNING", lease_until=now() + MINUTE)
    record("QUEUED", run_after=now() + HOUR)
    record("QUEUED", enqueued_at=now())

    assert {each.id for each in operations.stuck()} == {lost.id, left.id}
    assert operations.stuck(queue="other") == []
    assert len(operations.stuck(limit=1)) == 1
    with pytest.raises(InvalidFilter, match="older_than is"):
        operations.stuck(older_than=-MINUTE)


# retry


def test_a_retry_runs_the_same_invocation_from_the_beginning(queue: str, handle: Handle) -> None:
    used: dict[str, Any] = {
        "n_attempts": 3,
        "n_retries": 7,
        "n_waits": 2,
        "reserved_for": now() - HOUR,
    }
    failed = record(worker_ids="a\nb\nc\n", kwargs={"a": 5}, **used)

    changes = operations.retry(ids=[failed.id])

    assert (changes.done, changes.skipped) == ([failed.id], {})
    again = TaskRecord.objects.get()
    assert (again.status, again.n_attempts, again.n_retries, again.n_waits) == ("QUEUED", 0, 0, 0)
    assert (again.id, again.root_id, again.exception_class) == (failed.id, failed.root_id, None)
    assert (again.reserved_for, again.worker_ids) == (None, None)
    assert handle(wake_up(failed.id)) == []
    again.refresh_from_db()
    assert (again.status, again.result, again.n_attempts) == ("SUCCESS", 7, 1)


def test_a_retry_is_sent_at_once(queue: str, sqs: LocalSqs) -> None:
    failed, cancelled = record("FAILED"), record("CANCELLED")

    operations.retry(status=["FAILED", "CANCELLED"])

    sent = {each["invocation_id"] for each in bodies_in(sqs, queue)}
    assert sent == {str(failed.id), str(cancelled.id)}
    assert not TaskRecord.objects.filter(sent_at=None).exists()


def test_a_retry_that_no_queue_takes_is_left_to_the_relay(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": "http://127.0.0.1:9/000000000000/default"}
    failed = record()

    operations.retry(ids=[failed.id])

    failed.refresh_from_db()
    assert (failed.status, failed.sent_at) == ("QUEUED", None)
    assert failed.look_at is not None
    assert failed.look_at <= now() + MINUTE


def test_what_a_caller_rolls_back_is_not_retried(queue: str, sqs: LocalSqs) -> None:
    failed = record()

    with transaction.atomic():
        operations.retry(ids=[failed.id])
        transaction.set_rollback(True)

    failed.refresh_from_db()
    assert failed.status == "FAILED"
    assert bodies_in(sqs, queue) == []


def test_what_was_cancelled_before_its_time_waits_for_it_again(queue: str, sqs: LocalSqs) -> None:
    later = record("CANCELLED", run_after=now() + HOUR)

    operations.retry(ids=[later.id])

    # SQS can't delay it for so long, so it waits in its row.
    delayed = "ApproximateNumberOfMessagesDelayed"
    asked = sqs.client.get_queue_attributes(QueueUrl=queue, AttributeNames=[delayed])
    assert asked["Attributes"][delayed] == "0"
    assert relay() == 0
    later.refresh_from_db()
    assert (later.status, later.sent_at) == ("QUEUED", None)
    assert later.run_after is not None
    assert later.run_after > now() + HOUR - MINUTE


def test_a_retry_starts_with_the_state_that_was_saved_last(queue: str) -> None:
    failed = record(n_attempts=2)
    RunState.objects.create(record_id=failed.id, attempt=1, state="first")
    RunState.objects.create(record_id=failed.id, attempt=2, state="last")
    RunProgress.objects.create(record_id=failed.id, progress={"done": 1}, shown_at=now())

    operations.retry(ids=[failed.id])

    # The state of a higher attempt would hide what the next ones save.
    [state] = RunState.objects.filter(record_id=failed.id)
    assert (state.attempt, state.state) == (0, "last")
    assert not RunProgress.objects.exists()


@pytest.mark.parametrize("status", ["QUEUED", "RUNNING", "SUCCESS", "RETRYING"])
def test_only_what_has_failed_or_was_cancelled_is_retried(status: str) -> None:
    other = record(status)

    changes = operations.retry(ids=[other.id, unknown := uuid.uuid4()])

    assert changes.done == []
    assert status in changes.skipped[other.id]
    assert "no record" in changes.skipped[unknown]
    other.refresh_from_db()
    assert other.status == status


def test_what_can_not_run_is_not_retried_and_does_not_hold_up_others(queue: str) -> None:
    hidden = {"amount": 1, "password": "**********"}
    removed = record(task_name="tests.app.secretive.charge", kwargs=hidden)
    unknown = record(task_name="tests.app.tasks.none")
    elsewhere = record(queue="gone")
    repeated = record()
    record("SUCCESS", root_id=repeated.id, enqueued_at=now())
    good = record()

    changes = operations.retry(status="FAILED")

    assert changes.done == [good.id]
    assert changes.skipped.keys() == {removed.id, unknown.id, elsewhere.id, repeated.id}
    assert "no queue 'gone'" in changes.skipped[elsewhere.id]
    assert "secret arguments (password) were removed" in changes.skipped[removed.id]


def test_a_retry_that_is_cut_off_and_called_again_retries_none_twice(
    queue: str, sqs: LocalSqs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_tasks.operations.steering.CHUNK_SIZE", 4)
    failed = {record().id for _ in range(10)}

    def interrupt(done: int, total: int) -> None:
        assert total == 10
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        operations.retry(status="FAILED", on_progress=interrupt)
    assert TaskRecord.objects.filter(status="QUEUED").count() == 8
    operations.retry(status="FAILED")

    sent = [UUID(each["invocation_id"]) for each in bodies_in(sqs, queue)]
    assert (len(sent), set(sent)) == (10, failed)


def test_what_is_left_out_has_the_reason_that_applies() -> None:
    done, other, waits = record("SUCCESS"), record(queue="other"), record("QUEUED")
    gone = uuid.uuid4()

    skipped = operations.retry(ids=[done.id, other.id, waits.id, gone], queue="table").skipped

    assert skipped == {
        done.id: "it is SUCCESS; only FAILED and CANCELLED ones are retried",
        other.id: "another filter excludes it",
        waits.id: "it is QUEUED; only FAILED and CANCELLED ones are retried",
        gone: "there is no record of it",
    }


def test_a_dry_run_changes_nothing_and_tells_what_would_be_done() -> None:
    failed, queued, done = record(), record("QUEUED"), record("SUCCESS")
    before = list(TaskRecord.objects.order_by("id").values())

    assert operations.retry(status="FAILED", dry_run=True).done == [failed.id]
    replays = operations.replay(status="SUCCESS", dry_run=True)
    assert (replays.done, replays.new) == ([done.id], {})
    assert operations.requeue(dry_run=True).done == [queued.id]
    assert operations.cancel(ids=[queued.id], dry_run=True).done == [queued.id]
    assert operations.purge(all_time=True, dry_run=True).deleted == 2
    assert operations.enqueue(ADD, {"a": 1}, dry_run=True).task_name == ADD

    assert list(TaskRecord.objects.order_by("id").values()) == before


# replay


def test_a_replay_is_a_new_invocation_with_arguments_that_may_be_changed(
    queue: str, handle: Handle
) -> None:
    done = record("SUCCESS", kwargs={"a": 1, "b": 1}, headers={"tenant": "a"})

    replays = operations.replay(ids=[done.id], change={"b": 10})

    new = TaskRecord.objects.get(id=replays.new[done.id])
    assert (new.kwargs, new.headers, new.root_id) == ({"a": 1, "b": 10}, {"tenant": "a"}, done.id)
    assert handle(wake_up(new.id)) == []
    new.refresh_from_db()
    assert (new.status, new.result) == ("SUCCESS", 11)


def test_a_replay_with_arguments_that_do_not_fit_is_refused(queue: str) -> None:
    done = record("SUCCESS")

    wrong = operations.replay(ids=[done.id], change={"b": "ten"})
    unknown = operations.replay(ids=[done.id], change={"c": 1})

    assert "valid integer" in wrong.skipped[done.id]
    assert "c:" in unknown.skipped[done.id]
    assert TaskRecord.objects.count() == 1


def test_what_was_replayed_is_not_replayed_again_unless_that_is_meant(queue: str) -> None:
    done = record()

    first = operations.replay(ids=[done.id])
    second = operations.replay(status="FAILED")
    meant = operations.replay(status="FAILED", again=True)

    assert list(first.new) == [done.id]
    assert list(second.skipped) == [done.id]
    assert list(meant.new) == [done.id]
    assert TaskRecord.objects.filter(root_id=done.id).count() == 3


def test_what_is_unfinished_is_not_replayed() -> None:
    queued = record("QUEUED")

    replays = operations.replay(ids=[queued.id])

    assert "QUEUED" in replays.skipped[queued.id]
    assert TaskRecord.objects.count() == 1


# requeue and cancel


def test_what_is_stuck_is_made_due_and_sent_again(queue: str, sqs: LocalSqs) -> None:
    lost = record("RUNNING", lease_until=now() - HOUR, look_at=now() + HOUR)
    left = record("QUEUED", sent_at=now() - HOUR, look_at=now() + 23 * HOUR)
    held = record("RUNNING")

    changes = operations.requeue()

    assert set(changes.done) == {lost.id, left.id}
    sent = {UUID(each["invocation_id"]) for each in bodies_in(sqs, queue)}
    assert sent == {lost.id, left.id}
    held.refresh_from_db()
    assert held.status == "RUNNING"


def test_what_was_stuck_runs_once_more_than_before(queue: str, handle: Handle) -> None:
    lost = record("RUNNING", lease_until=now() - HOUR)

    operations.requeue(ids=[lost.id])

    assert handle(wake_up(lost.id)) == []
    assert handle(wake_up(lost.id)) == []
    lost.refresh_from_db()
    assert (lost.status, lost.n_attempts) == ("SUCCESS", 2)


def test_cancel_ends_what_is_unfinished_and_leaves_the_rest() -> None:
    queued, running, done = record("QUEUED"), record("RUNNING"), record("SUCCESS")

    changes = operations.cancel(task=ADD)

    assert set(changes.done) == {queued.id, running.id}
    assert TaskRecord.objects.filter(status="CANCELLED").count() == 2
    assert list(operations.cancel(ids=[done.id]).skipped) == [done.id]


# purge


def test_purge_deletes_what_ended_long_ago_and_nothing_unfinished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = record("SUCCESS", end_time=now() - 3 * HOUR)
    RunState.objects.create(record_id=old.id, attempt=1, state=1)
    kept = [record("SUCCESS"), record("QUEUED"), record("RUNNING")]

    with caplog.at_level(logging.WARNING, "lambda_tasks"):
        purged = operations.purge(older_than=2 * HOUR, by="ada")

    assert (purged.deleted, purged.kept) == (1, None)
    assert set(TaskRecord.objects.values_list("id", flat=True)) == {each.id for each in kept}
    assert not RunState.objects.exists()
    assert "Records deleted by ada: 1," in caplog.text
    assert "by ada" in caplog.text


def test_a_person_who_wants_to_be_forgotten_is_purged_by_argument(
    caplog: pytest.LogCaptureFixture,
) -> None:
    record("SUCCESS", kwargs={"user_id": 7777})
    record("SUCCESS", kwargs={"user_id": "7777"})
    record("SUCCESS", kwargs={}, args=[7777])
    others = [
        record("SUCCESS", kwargs={"user_id": 8}),
        record("SUCCESS", kwargs={"a": 7777}),
        record("SUCCESS", kwargs={}, args=[1, 7777]),
    ]

    with caplog.at_level(logging.WARNING, "lambda_tasks"):
        operations.purge(all_time=True, arguments={"user_id": 7777})
        operations.purge(all_time=True, arguments={"0": 7777})

    assert set(TaskRecord.objects.values_list("id", flat=True)) == {each.id for each in others}
    assert "user_id" in caplog.text
    assert "7777" not in caplog.text


def test_an_argument_may_have_the_name_of_a_lookup() -> None:
    found = record(kwargs={"contains": 1, "a__b": 2})
    record(kwargs={"contains": 2, "a__b": 2})

    changes = operations.retry(arguments={"contains": 1, "a__b": 2}, dry_run=True)

    assert changes.done == [found.id]


@pytest.mark.parametrize("window", [{}, {"older_than": HOUR, "all_time": True}])
def test_nothing_is_purged_without_a_window(window: Any) -> None:
    record("SUCCESS")

    with pytest.raises(InvalidFilter, match="A window is required"):
        operations.purge(**window)

    assert TaskRecord.objects.exists()


def test_records_are_kept_for_as_long_as_signatures_are_valid(settings: Any) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32]
    record("SUCCESS")
    record("SUCCESS", end_time=now() - timedelta(days=15))

    purged = operations.purge(all_time=True, task=ADD)

    assert (purged.deleted, purged.kept) == (1, 1)


def test_purge_works_in_chunks_however_many_end_at_the_same_moment() -> None:
    ended = now() - HOUR
    for _ in range(7):
        record("SUCCESS", end_time=ended)
    steps: list[tuple[int, int]] = []

    purged = operations.purge(
        all_time=True, chunk_size=3, on_progress=lambda done, total: steps.append((done, total))
    )

    assert (purged.deleted, TaskRecord.objects.count()) == (7, 0)
    assert steps == [(3, 7), (6, 7), (7, 7)]


# filters


def test_filters_narrow_down_what_is_meant() -> None:
    wanted = record(queue="other", enqueued_at=now() - 2 * HOUR, task_name="shop.tasks.charge")
    record(queue="other", enqueued_at=now() - 2 * HOUR)
    record(enqueued_at=now() - 2 * HOUR, task_name="shop.tasks.charge")
    record(queue="other", enqueued_at=now(), task_name="shop.tasks.charge")

    found = operations.purge(
        all_time=True, dry_run=True, task="shop.tasks.charge", queue="other",
        since=3 * HOUR, until=now() - HOUR, error="what was wrong", status="failed",
    )  # fmt: skip

    assert found.deleted == 1
    assert operations.purge(all_time=True, ids=[str(wanted.id)]).deleted == 1


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({}, "No filter says which records are meant"),
        ({"ids": None, "status": None}, "No filter says which records are meant"),
        ({"ids": ["7"]}, "'7' is not the id of an invocation"),
        ({"status": "BROKEN"}, "There is no status 'BROKEN'. There are: WAITING, QUEUED"),
        ({"since": datetime(2026, 1, 1)}, "since is .* Use a datetime with a time zone"),
        ({"until": -HOUR}, "until is"),
        ({"arguments": {"not a name": 1}}, "can't be the name of an argument"),
        ({"task": 7}, "task is 7"),
        ({"ids": iter(())}, "ids is .* Use one value, or a list of several"),
        ({"task": "tests.app.tasks.ad"}, r"no record of one\. Did you mean 'tests\.app\.tasks\.ad"),
        ({"queue": ["tabel"]}, "no record of one. Did you mean 'table'"),
        ({"name": "x"}, "There is no filter 'name'. There are: ids"),
    ],
)
def test_filters_that_make_no_sense_are_refused_and_nothing_is_changed(
    filters: Any, message: str
) -> None:
    record()
    record("QUEUED")
    before = list(TaskRecord.objects.order_by("id").values())

    for steer in (operations.retry, operations.replay, operations.cancel):
        with pytest.raises(InvalidFilter, match=message):
            steer(**filters)

    assert list(TaskRecord.objects.order_by("id").values()) == before


# enqueue by name, and run here


def test_a_task_is_enqueued_by_its_name(queue: str, sqs: LocalSqs) -> None:
    invocation = operations.enqueue(ADD, {"a": 1}, headers={"tenant": "a"}, run_after=-MINUTE)

    [message] = bodies_in(sqs, queue)
    assert message["invocation_id"] == str(invocation.id)
    stored = TaskRecord.objects.get()
    assert (stored.kwargs, stored.headers) == ({"a": 1}, {"tenant": "a"})


def test_a_name_or_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownTask, match=r"Did you mean 'tests\.app\.tasks\.add"):
        operations.enqueue("tests.app.tasks.ad", {})
    with pytest.raises(ArgumentsMismatch, match="a: "):
        operations.enqueue(ADD, {"a": "one"})
    with pytest.raises(ArgumentsMismatch, match="unexpected keyword argument 'z'"):
        operations.enqueue("tests.app.django_tasks.add", {"a": 1, "b": 1, "z": 1})

    assert not TaskRecord.objects.exists()


def test_so_many_tasks_run_here_as_in_a_worker() -> None:
    for number in range(3):
        record("QUEUED", queue="table", task_name=tasks.aadd.name, kwargs={"a": number})
    record("QUEUED", queue="table", task_name=tasks.afail_alone.name, kwargs={}, priority=1)

    first = operations.run_tasks(max_tasks=2, queue="table", within=MINUTE)
    rest = operations.run_tasks(queue=["table"])

    assert (first.done, first.failed, first.returned) == (2, 1, 0)
    assert (rest.done, rest.failed) == (2, 0)
    assert TaskRecord.objects.filter(status="SUCCESS").count() == 3


def test_one_task_runs_here_whatever_its_queue_and_whenever_it_is_due() -> None:
    later = record("QUEUED", task_name=tasks.aadd.name, run_after=now() + HOUR)
    failed = record(task_name=tasks.aadd.name, n_attempts=5)

    assert operations.run_task(later.id).status == "SUCCESS"
    assert operations.run_task(str(failed.id), retry=True).status == "SUCCESS"


def test_what_has_ended_or_is_unknown_does_not_run_here() -> None:
    with pytest.raises(NothingToRun, match=r"is FAILED\. Retry it"):
        operations.run_task(record().id)
    with pytest.raises(NothingToRun, match=r"is SUCCESS\. Replay it"):
        operations.run_task(record("SUCCESS").id, retry=True)
    with pytest.raises(NothingToRun, match="There is no record of"):
        operations.run_task(uuid.uuid4())
    with pytest.raises(InvalidFilter, match="is not the id of an invocation"):
        operations.run_task("7")
    with pytest.raises(NothingToRun, match="is WAITING: other steps"):
        operations.run_task(record("WAITING", start_time=None, end_time=None).id)
    with pytest.raises(NothingToRun, match="can't run now"):
        operations.run_task(record("QUEUED", secrets=ENCRYPTED_ELSEWHERE).id)
    with pytest.raises(InvalidFilter, match=r"max_tasks is 0\. Use a number from 1 on"):
        operations.run_tasks(max_tasks=0)
    with pytest.raises(InvalidFilter, match="no queue 'nowhere'"):
        operations.run_tasks(queue="nowhere")


def test_what_another_worker_runs_is_left_to_it() -> None:
    held = record("RUNNING", task_name=tasks.aadd.name)

    assert operations.run_task(held.id).status == "RUNNING"


def test_async_code_has_the_same_functions() -> None:
    failed = record(queue="table")

    async def steer() -> None:
        assert (await operations.astats()).total.failed == 1
        assert (await operations.ahealth()).status == "warning"
        assert (await operations.aretry(ids=[failed.id])).done == [failed.id]
        assert await operations.astuck() == []
        assert (await operations.arequeue()).done == []
        assert (await operations.acancel(task=ADD)).done == [failed.id]
        replays = await operations.areplay(ids=[failed.id])
        assert list(replays.new) == [failed.id]
        assert (await operations.apurge(all_time=True)).deleted == 1
        await operations.aenqueue("tests.app.tasks.add_durable", {"a": 1}, queue="table")

    async_to_sync(steer)()

    assert TaskRecord.objects.filter(status="QUEUED").count() == 2


TWINS: Final = [name for name in operations.__all__ if f"a{name}" in operations.__all__]


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_one_signature_and_one_description(name: str) -> None:
    original, twin = getattr(operations, name), getattr(operations, f"a{name}")

    assert inspect.signature(inspect.unwrap(original)) == inspect.signature(twin)
    assert twin.__doc__ == f"See {name}()."


def test_in_an_event_loop_the_sync_form_names_its_twin() -> None:
    async def retry() -> None:
        operations.retry(status="FAILED")

    with pytest.raises(SynchronousOnlyOperation, match=r"`await aretry\("):
        async_to_sync(retry)()
