"""Work that is longer than one run: a state that is kept, runs that go on, progress."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection
from pydantic import ValidationError

from lambda_tasks.models import RunProgress, RunState, TaskRecord
from lambda_tasks.tasks import cleanup_task_records
from tests.app import resuming
from tests.app.models import Effect
from tests.conftest import Handle, Task, body, record_of, sqs_event, wait_for
from tests.servers import LambdaProcess


def _names() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


@pytest.mark.parametrize(
    ("task", "steps", "result"),
    [
        (resuming.count_to_three, ["step 0", "step 1", "step 2"], "3 steps"),
        (resuming.count_to_two, ["step None", "step {'page': 2}"], "{'page': 2}"),
    ],
)
def test_a_task_goes_on_in_further_runs_and_keeps_the_writes_of_each(
    transactional_db: None,
    queue: str,
    work_off: Callable[[str], int],
    task: Task,
    steps: list[str],
    result: str,
) -> None:
    invocation = task.execute_on_commit()

    def is_done() -> bool:
        work_off(queue)
        return TaskRecord.objects.filter(status="SUCCESS").count() == len(steps)

    wait_for(is_done)

    records = list(TaskRecord.objects.order_by("enqueued_at"))
    assert invocation.result(timeout=5) == result
    assert _names() == steps
    assert {record.root_id for record in records} == {invocation.id}
    assert [record.retry_of for record in records] == [None, *[each.id for each in records[:-1]]]


def test_a_run_that_goes_on_is_delivered_twice_and_followed_once(
    handle: Handle, queue: str
) -> None:
    message = body(resuming.count_to_three)

    handle(message)
    handle(message)

    assert _names() == ["step 0"]
    assert [each.state for each in TaskRecord.objects.filter(status="QUEUED")] == [1]


def test_a_run_that_goes_on_later_does_so_then_and_with_all_its_retries(
    handle: Handle, queue: str
) -> None:
    handle(body(resuming.go_on_in_ten_minutes, _n_retries=3))

    following = TaskRecord.objects.get(status="QUEUED")
    assert following.run_after is not None
    assert following.enqueued_at is not None
    assert 595 < (following.run_after - following.enqueued_at).total_seconds() < 605
    assert following.n_retries == 0


@pytest.mark.parametrize("task", [resuming.go_on_for_ever, resuming.ask_for_a_retry])
def test_a_delay_that_a_task_asks_for_is_kept_however_long(
    handle: Handle, queue: str, task: Task
) -> None:
    day = 24 * 3600

    handle(body(task, delay=day))

    following = TaskRecord.objects.get(status="QUEUED")
    assert following.run_after is not None
    assert following.enqueued_at is not None
    assert day - 10 < (following.run_after - following.enqueued_at).total_seconds() < day + 10


@pytest.mark.usefixtures("transactional_db")
def test_a_chain_of_runs_has_an_end(queue: str, work_off: Any, settings: Any) -> None:
    settings.LAMBDA_TASKS_MAX_CONTINUES = 20
    go_on: Task = resuming.go_on_for_ever

    go_on.execute_on_commit()
    work_off(queue)

    assert TaskRecord.objects.filter(status="SUCCESS").count() == 20
    last = TaskRecord.objects.get(status="FAILED")
    assert last.n_continues == 20
    assert last.exception_class == "lambda_tasks.errors.MaxContinuesExceededError"
    assert "LAMBDA_TASKS_MAX_CONTINUES" in (last.traceback or "")


def test_what_a_run_has_saved_is_there_after_its_worker_has_died(
    handle: Handle, queue: str
) -> None:
    message = body(resuming.save_and_die)

    handle(message)
    retry = TaskRecord.objects.get(retry_of=record_of(message).id)
    TaskRecord.objects.filter(id=retry.id).update(run_after=None)
    handle(body(resuming.save_and_die, _id=retry.id))

    retry.refresh_from_db()
    assert (retry.status, retry.result) == ("SUCCESS", {"page": 3})


def test_what_a_run_has_saved_in_its_transaction_is_rolled_back_with_it(
    handle: Handle, queue: str
) -> None:
    handle(body(resuming.save_and_retry))

    assert TaskRecord.objects.get(status="QUEUED").state is None


@pytest.mark.parametrize("task", [resuming.save_and_show, resuming.asave_and_show])
def test_a_task_saves_and_shows_its_progress_in_one_transaction(handle: Handle, task: Task) -> None:
    message = body(task)

    assert handle(message) == []

    record = record_of(message)
    assert (record.status, record.traceback) == ("SUCCESS", None)
    assert record.state == {"page": 2}
    assert record.progress == {"done": 2, "total": 3, "text": "two of three"}
    assert record.progress_at is not None


def test_a_retry_and_a_run_that_goes_on_begin_with_what_was_saved_last(
    handle: Handle, queue: str
) -> None:
    message = body(resuming.save_twice_and_retry)

    handle(message)

    retry = TaskRecord.objects.get(status="QUEUED")
    assert retry.state == {"page": 2}
    assert record_of(message).state == {"page": 2}


def test_a_task_that_goes_on_with_nothing_to_hand_on_is_followed_to_its_end(
    transactional_db: None, settings: Any
) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    invocation = resuming.go_on_once.execute_on_commit()

    assert invocation.result(timeout=5) == "went on"


@pytest.mark.anyio
async def test_what_a_run_shows_can_be_read_in_async_code(
    transactional_db: None, settings: Any
) -> None:
    settings.LAMBDA_TASKS_EAGER = True
    task: Task = resuming.asave_and_show

    invocation = await task.aexecute_on_commit()

    record = await invocation.arecord()
    assert record is not None
    shown = {"done": 2, "total": 3, "text": "two of three"}
    assert (record.state, record.progress) == ({"page": 2}, shown)
    records: Any = TaskRecord.objects
    [each] = [each async for each in records.with_progress()]
    assert (each.state, each.progress) == (record.state, shown)
    assert each.progress_at == record.progress_at


@pytest.mark.parametrize("days", [-1, 10**9])
def test_a_cleanup_of_what_is_still_to_come_is_refused_at_the_call(days: int) -> None:
    with pytest.raises(ValidationError, match="retention_days"):
        cleanup_task_records.execute_on_commit(retention_days=days)


def test_what_a_run_has_saved_and_shown_goes_with_its_record(handle: Handle) -> None:
    old, kept, other = (body(resuming.save_and_show) for _ in range(3))
    handle(old, kept, other)
    TaskRecord.objects.filter(id=record_of(old).id).update(end_time="2000-01-01T00:00:00Z")

    assert cleanup_task_records() == 1
    TaskRecord.objects.filter(id=record_of(other).id).delete()
    assert record_of(kept).state == {"page": 2}
    left = [model.objects.values_list("record_id", flat=True) for model in (RunState, RunProgress)]
    assert [list(each) for each in left] == [[record_of(kept).id]] * 2
    record_of(kept).delete()
    assert not RunState.objects.exists()
    assert not RunProgress.objects.exists()


@pytest.mark.parametrize(
    ("size", "problem"),
    [(70_000, "70002 bytes and may have 65536"), (0, "is a object that can't be")],
)
def test_a_state_that_is_too_large_or_no_json_is_refused(
    handle: Handle, size: int, problem: str
) -> None:
    message = body(resuming.save, size=size)

    handle(message)

    assert record_of(message).status == "FAILED"
    assert problem in (record_of(message).traceback or "")


@pytest.fixture(scope="module")
def function(django_db_setup: None) -> Iterator[LambdaProcess]:
    with LambdaProcess() as process:
        yield process


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "task", [resuming.show_progress_and_wait, resuming.show_progress_and_sleep]
)
def test_progress_is_shown_while_the_task_runs(function: LambdaProcess, task: Task) -> None:
    message = body(task, seconds=4)
    id = function.begin(sqs_event(message))

    shown: list[TaskRecord] = []

    def is_shown() -> bool:
        records: Any = TaskRecord.objects.filter(task_name=task.name)
        shown[:] = [each for each in records.with_progress() if each.progress]
        return bool(shown)

    wait_for(is_shown)
    function.finish(id)

    [record] = shown
    assert record.progress == {"done": 1, "total": 3, "text": "one of three"}
    assert record.status == "RUNNING" or connection.vendor == "sqlite"
    assert record_of(message).status == "SUCCESS"


@pytest.mark.django_db(transaction=True)
def test_a_context_may_be_passed_by_keyword_as_in_earlier_releases(
    queue: str, work_off: Callable[[str], int]
) -> None:
    task: Any = resuming.attempt_by_keyword
    stored = task.execute_on_commit(times=3)

    work_off(queue)

    assert stored.result(timeout=5) == 3
    assert task(times=2) == 2


@pytest.mark.django_db(transaction=True)
def test_the_idempotency_key_is_one_through_retries_and_further_runs(
    queue: str, work_off: Callable[[str], int]
) -> None:
    resuming.keys_seen.clear()
    stored = resuming.see_key.execute_on_commit()

    wait_for(lambda: work_off(queue) and len(resuming.keys_seen) == 3)

    assert len({id for id, _ in resuming.keys_seen}) == 3
    assert {key for _, key in resuming.keys_seen} == {stored.id}
