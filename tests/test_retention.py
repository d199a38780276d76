"""How long records are kept: by their task, by the settings, by the call of the cleanup."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test import override_settings
from django.utils.timezone import now

from lambda_tasks import conf, operations
from lambda_tasks.context import TaskContext
from lambda_tasks.core.lifecycle import WORKER_DIED, Failed
from lambda_tasks.decorators import lambda_task
from lambda_tasks.errors import Continue
from lambda_tasks.models import TaskRecord
from lambda_tasks.records import retention
from lambda_tasks.records.finishes import finish
from lambda_tasks.records.mapping import DROPPED
from lambda_tasks.tasks import cleanup_task_records
from tests.app import tasks
from tests.conftest import Handle, record_of, relay, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)


def test_cleanup_deletes_what_was_finished_long_ago_and_returns_the_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "CHUNK_SIZE", 3)  # so that seven take three chunks
    old, recent = now() - timedelta(days=8), now() - timedelta(days=6)
    for status in ("SUCCESS", "FAILED", "RETRYING", "CANCELLED", *["SUCCESS"] * 3):
        TaskRecord.objects.create(task_name="f", kwargs={}, status=status, end_time=old)
    kept = [
        TaskRecord.objects.create(task_name="f", kwargs={}, status="SUCCESS", end_time=recent),
        TaskRecord.objects.create(task_name="f", kwargs={}, status="QUEUED", enqueued_at=old),
        TaskRecord.objects.create(task_name="f", kwargs={}, status="RUNNING", start_time=old),
    ]

    assert cleanup_task_records() == 7
    assert set(TaskRecord.objects.all()) == set(kept)
    assert cleanup_task_records(retention_days=5) == 1


def _do(*, a: int = 0) -> None:
    """Do nothing, as a task."""


NAME = f"{__name__}._do"


def ended(age: timedelta, status: str = "SUCCESS", name: str = NAME) -> TaskRecord:
    """Store a record of a run that ended so long ago."""
    moment: datetime = now() - age
    return TaskRecord.objects.create(
        task_name=name, kwargs={}, status=status, enqueued_at=moment, end_time=moment
    )


def left_after_cleanup(**options: Any) -> set[TaskRecord]:
    cleanup_task_records(**options)
    return set(TaskRecord.objects.all())


def test_a_task_keeps_its_records_for_as_long_as_it_says_by_status() -> None:
    lambda_task(keep={"SUCCESS": timedelta(hours=1), "FAILED": 90, "CANCELLED": None})(_do)
    kept = {
        ended(timedelta(minutes=59)),
        ended(89 * DAY, "FAILED"),
        ended(3650 * DAY, "CANCELLED"),
        ended(6 * DAY, "RETRYING"),  # of which it says nothing
        ended(6 * DAY, name="another"),
    }
    ended(2 * timedelta(hours=1))
    ended(91 * DAY, "FAILED")
    ended(8 * DAY, "RETRYING")
    ended(8 * DAY, name="another")

    assert left_after_cleanup() == kept
    assert left_after_cleanup(retention_days=0) == {
        each for each in kept if each.task_name == NAME and each.status != "RETRYING"
    }


def test_the_setting_says_how_long_for_tasks_that_say_nothing() -> None:
    lambda_task(keep=30)(_do)
    kept = {ended(29 * DAY), ended(3 * DAY, name="other"), ended(6 * DAY, "RETRYING", "other")}
    ended(5 * DAY, name="other")
    ended(8 * DAY, "RETRYING", "other")

    with override_settings(LAMBDA_TASKS_KEEP={"SUCCESS": 4}):
        assert left_after_cleanup() == kept
    with override_settings(LAMBDA_TASKS_KEEP=None):
        assert left_after_cleanup() == kept


def test_records_under_an_earlier_name_of_a_task_are_kept_as_it_says() -> None:
    lambda_task(keep=30, aliases=("tests.old.name",))(_do)
    kept = {ended(29 * DAY, name="tests.old.name")}

    assert left_after_cleanup() == kept


def test_a_cleanup_that_is_short_of_time_goes_on_in_another_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "CHUNK_SIZE", 2)
    lambda_task(_do)
    for _ in range(3):
        ended(8 * DAY)
    short = TaskContext(task_name="cleanup", deadline=0.0)
    func: Any = cleanup_task_records.__wrapped__

    with pytest.raises(Continue) as raised:
        func(short)

    assert raised.value.state == 2
    assert func(TaskContext(task_name="cleanup", state=raised.value.state)) == 3
    assert not TaskRecord.objects.exists()


def test_records_that_are_kept_are_read_once_by_a_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "CHUNK_SIZE", 2)
    lambda_task(keep={"FAILED": None})(_do)
    for age in range(20, 12, -1):
        ended(age * DAY, "FAILED")
        ended(age * DAY)
    starts: list[Any] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        is_of_one_task = '"task_name" = ' in sql.replace("`", '"')
        if "LIMIT 2" in sql and "ORDER BY" in sql and not is_of_one_task:
            starts.append(sql.count(">="))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        assert len(left_after_cleanup()) == 8

    assert starts == [0, *[1] * 4], "each chunk begins where the one before it ended"


def test_what_is_retried_during_a_cleanup_is_not_deleted(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    retried = ended(8 * DAY, "FAILED", tasks.add.name)
    TaskRecord.objects.update(kwargs={"a": 1}, queue="default")
    find = retention._find

    def find_and_retry(*args: Any) -> Any:
        found = find(*args)
        operations.retry(ids=[retried.id])
        return found

    monkeypatch.setattr(retention, "_find", find_and_retry)

    assert cleanup_task_records() == 0

    assert TaskRecord.objects.get().status == "QUEUED"


def test_a_record_whose_key_still_counts_is_kept() -> None:
    counts, is_over = ended(8 * DAY), ended(8 * DAY)
    TaskRecord.objects.filter(id=counts.id).update(unique_until=now() + DAY)
    TaskRecord.objects.filter(id=is_over.id).update(unique_until=now() - DAY)

    assert cleanup_task_records() == 1

    assert TaskRecord.objects.get() == counts


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"SUCCEEDED": 1}, "_do: keep has the key 'SUCCEEDED'. Use 'SUCCESS', "),
        ({"RUNNING": 1}, "has the key 'RUNNING'"),
        (-1, "_do: keep is -1. Use days from 0"),
        ({"FAILED": "90"}, r"keep\['FAILED'\] is '90'"),
        (timedelta.max, "keep is .* 36500 days"),
        (float("nan"), "keep is nan"),
        (True, "keep is True"),
    ],
)
def test_a_wrong_keep_is_refused_at_the_decoration(keep: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lambda_task(keep=keep)(_do)


def test_a_wrong_setting_is_refused() -> None:
    with (
        override_settings(LAMBDA_TASKS_KEEP={"DONE": 1}),
        pytest.raises(ImproperlyConfigured, match="LAMBDA_TASKS_KEEP has the key 'DONE'"),
    ):
        conf.current()


# Arguments


def wake_up_of(**kwargs: Any) -> str:
    id = tasks.forget.execute_on_commit(**kwargs).id
    return wake_up(id, tasks.forget.name)


def kwargs_of(message: str) -> Any:
    return record_of(message).kwargs


@pytest.mark.usefixtures("queue")
def test_a_task_that_keeps_no_arguments_loses_them_at_its_end(handle: Handle) -> None:
    messages = [wake_up_of(email="ann@example.com"), wake_up_of(email="bob@example.com")]
    assert kwargs_of(messages[0]) == {"email": "ann@example.com"}

    handle(*messages)

    assert [record_of(each).status for each in messages] == ["SUCCESS"] * 2
    assert [kwargs_of(each) for each in messages] == [DROPPED] * 2


@pytest.mark.usefixtures("queue")
def test_a_retry_has_the_arguments_that_the_retried_run_has_lost(handle: Handle) -> None:
    message = wake_up_of(email="ann@example.com", error="retry")

    handle(message)

    [retry] = TaskRecord.objects.filter(status="QUEUED")
    assert (record_of(message).status, kwargs_of(message)) == ("RETRYING", DROPPED)
    assert retry.kwargs["email"] == "ann@example.com"


@pytest.mark.usefixtures("queue")
def test_a_failed_run_keeps_its_arguments_as_long_as_secrets(handle: Handle) -> None:
    message = wake_up_of(email="ann@example.com", error="fail")

    handle(message)
    relay()
    assert kwargs_of(message)["email"] == "ann@example.com"
    TaskRecord.objects.update(look_at=now())
    relay()

    assert (record_of(message).status, kwargs_of(message)) == ("FAILED", DROPPED)
    with override_settings(LAMBDA_TASKS_KEEP_SECRETS=0):
        at_once = wake_up_of(email="ann@example.com", error="fail")
        handle(at_once)
    assert (record_of(at_once).status, kwargs_of(at_once)) == ("FAILED", DROPPED)


@pytest.mark.usefixtures("queue")
def test_a_cancelled_run_loses_its_arguments_and_those_of_others_stay() -> None:
    message = wake_up_of(email="ann@example.com")
    other = TaskRecord.objects.create(task_name="other", kwargs={"a": 1}, headers={"tenant": 1})

    assert TaskRecord.objects.filter(status="QUEUED").cancel() == 2

    assert kwargs_of(message) == DROPPED
    other.refresh_from_db()
    assert other.kwargs == {"a": 1}


@pytest.mark.usefixtures("queue")
def test_a_run_that_fails_without_its_process_loses_its_arguments_later() -> None:
    message = wake_up_of(email="ann@example.com")

    finish(TaskRecord.objects.filter(status="QUEUED"), Failed(WORKER_DIED))

    assert kwargs_of(message)["email"] == "ann@example.com"
    TaskRecord.objects.update(look_at=now())
    relay()
    assert kwargs_of(message) == DROPPED
