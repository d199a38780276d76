"""Compensations of durable functions that fail, and what follows when a function was undone."""

from collections.abc import Iterator
from typing import Any

import pytest

from lambda_tasks import HardTimeLimitExceeded, SoftTimeLimitExceeded, operations
from lambda_tasks.durable import DurableRun
from lambda_tasks.models import StepCheckpoint, TaskRecord
from tests.app import durable_undoing as app
from tests.app.models import Effect
from tests.conftest import PATIENCE_S
from tests.durable_play import Life

pytestmark = pytest.mark.django_db(transaction=True)

FOR_GOOD = 1000

both_forms = pytest.mark.parametrize("task", [app.fail, app.afail], ids=["sync", "async"])


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    app.forget()
    yield
    app.forget()


def _undone(task: Any, **kwargs: Any) -> Life:
    """Return a function that has failed, and was undone as far as that is possible."""
    life = Life(task.using(queue="table").execute_on_commit(**kwargs))
    life.play()
    return life


def _undoing() -> TaskRecord:
    """The last run of compensations."""
    return TaskRecord.objects.filter(headers__has_key="lambda_tasks.undo").latest("enqueued_at")


def _statuses(life: Life) -> dict[str, str]:
    return {each.name: each.status for each in life.run.steps() if each.kind == "on_failure"}


def _rows() -> list[str]:
    return list(Effect.objects.order_by("pk").values_list("name", flat=True))


@both_forms
def test_a_compensation_that_fails_for_good_does_not_keep_the_others_from_theirs(
    task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app.failures["b"] = FOR_GOOD

    life = _undone(task, names=["a", "b", "c"])

    assert app.tried == ["c", "b", "a"]
    assert _rows() == ["a", "b", "c", "undo c", "undo a"]
    assert _statuses(life) == {"undo a": "done", "undo b": "failed", "undo c": "done"}
    assert life.status() == "FAILED"
    failed = _undoing()
    assert failed.status == "FAILED"
    assert failed.exception_class == "lambda_tasks.errors.CompensationFailed"
    assert "1 compensation(s) of" in (failed.traceback or "")
    assert "'undo b' with tests.app.durable_undoing.Broken: b can't be undone" in (
        failed.traceback or ""
    )
    told = [each for each in caplog.records if "The compensation 'undo b'" in each.getMessage()]
    assert [each.levelname for each in told] == ["ERROR"]
    assert "Broken: b can't be undone" in told[0].getMessage()
    assert "on_failure, failed with tests.app.durable_undoing.Broken: b can't be undone" in (
        "".join(each.describe() for each in life.run.steps())
    )


@both_forms
def test_a_retry_of_their_run_runs_the_compensations_that_have_failed_and_no_other(
    task: Any,
) -> None:
    app.failures.update(a=1, c=1)
    life = _undone(task, names=["a", "b", "c"])
    assert "2 compensation(s)" in (_undoing().traceback or "")

    operations.retry(ids=[_undoing().pk])
    life.play()

    assert app.tried == ["c", "b", "a", "c", "a"]
    assert set(_statuses(life).values()) == {"done"}
    assert _undoing().status == "SUCCESS"


@both_forms
def test_a_compensation_that_is_retried_keeps_its_place(task: Any) -> None:
    app.failures["b"], app.error_of["b"] = 2, app.Flaky

    life = _undone(task, names=["a", "b", "c"])

    assert app.tried == ["c", "b", "b", "b", "a"]
    assert set(_statuses(life).values()) == {"done"}


@both_forms
def test_after_its_last_retry_a_compensation_has_failed_for_good(task: Any) -> None:
    app.failures["b"], app.error_of["b"] = FOR_GOOD, app.Flaky

    life = _undone(task, names=["a", "b", "c"])

    assert app.tried == ["c", "b", "b", "b", "a"]
    assert _statuses(life)["undo b"] == "failed"


@both_forms
def test_a_compensation_that_meets_a_conflict_is_repeated_at_once(task: Any) -> None:
    app.failures["b"], app.error_of["b"] = 1, app.Conflict

    life = _undone(task, names=["a", "b"])

    assert app.tried == ["b", "b", "a"]
    assert set(_statuses(life).values()) == {"done"}
    assert _rows() == ["a", "b", "undo b", "undo a"]


@both_forms
def test_a_compensation_that_takes_a_whole_run_too_long_has_failed(task: Any) -> None:
    app.failures.update(a=FOR_GOOD, b=FOR_GOOD)
    app.error_of.update(a=SoftTimeLimitExceeded, b=SoftTimeLimitExceeded)

    life = _undone(task, names=["a", "b"])

    assert app.tried == ["b", "a", "a"], "the second one had only what was left of a run"
    assert set(_statuses(life).values()) == {"failed"}


@both_forms
def test_a_compensation_that_ends_its_run_lets_the_others_pass_in_the_next_one(task: Any) -> None:
    app.failures["b"], app.error_of["b"] = FOR_GOOD, HardTimeLimitExceeded
    life = _undone(task, names=["a", "b", "c"])
    assert app.tried == ["c", "b"]
    assert _undoing().exception_class == "lambda_tasks.errors.HardTimeLimitExceeded"

    operations.retry(ids=[_undoing().pk])
    life.play()

    assert app.tried == ["c", "b", "a", "b"]
    assert _statuses(life) == {"undo a": "done", "undo b": "waiting", "undo c": "done"}


@both_forms
@pytest.mark.parametrize("dies_at", range(0, 60, 7))
def test_a_crash_neither_repeats_nor_forgets_a_failure(task: Any, dies_at: int) -> None:
    app.failures["b"] = FOR_GOOD
    life = Life(task.using(queue="table").execute_on_commit(names=["a", "b", "c"]), dies_at=dies_at)

    life.play()

    assert _rows() == ["a", "b", "c", "undo c", "undo a"]
    assert _statuses(life) == {"undo a": "done", "undo b": "failed", "undo c": "done"}
    assert _undoing().exception_class == "lambda_tasks.errors.CompensationFailed"


def test_a_compensation_that_this_release_lacks_waits_for_its_function_and_no_other_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = Life(app.lose_its_code.using(queue="table").execute_on_commit())
    life.deliver()
    with monkeypatch.context() as release:
        release.delattr(app, "call_back")
        life.play()
    assert app.tried == ["charge"]
    assert "no tests.app.durable_undoing.call_back in this release" in (_undoing().traceback or "")

    operations.retry(ids=[_undoing().pk])
    life.play()

    assert app.tried == ["charge", "send"]


def test_what_a_failed_compensation_says_of_secret_arguments_is_hidden(
    caplog: pytest.LogCaptureFixture,
) -> None:
    life = _undone(app.fail_secretly, token="hush hush")

    assert _statuses(life) == {"refund": "failed"}
    assert "is refused" in (_undoing().traceback or "")
    assert "The compensation 'refund'" in caplog.text
    rows = [*StepCheckpoint.objects.values(), *TaskRecord.objects.values()]
    assert "hush" not in f"{rows} {caplog.text} {life.run.steps()}"


# When it was undone


def test_what_undoes_a_function_is_no_success_of_it() -> None:
    _undone(app.afail, names=["a"])

    assert _undoing().status == "SUCCESS"
    assert not TaskRecord.objects.filter(task_name=app.tell_success.name).exists()


def test_a_function_that_was_undone_does_not_go_on_as_if_nothing_was() -> None:
    life = _undone(app.fail, names=["a"])

    changes = operations.retry(ids=[life.call.id])

    assert not changes.done
    assert "its compensations have run" in changes.skipped[life.call.id]
    replay = operations.replay(ids=[life.call.id])
    life.play()
    assert len(replay.done) == 1
    assert app.tried == ["a", "a"]


@pytest.mark.parametrize("is_undone", [True, False])
def test_keys_are_new_once_what_was_done_by_them_is_undone(is_undone: bool) -> None:
    app.failures["pay"] = 1
    life = _undone(app.pay, is_undone=is_undone)
    assert life.status() == "FAILED"

    life.run.retry_from("charge")
    life.play()

    assert life.status() == "SUCCESS"
    assert len(app.keys) == 2
    assert (app.keys[0] != app.keys[1]) is is_undone


def test_compensations_do_not_run_again_for_a_function_that_goes_on() -> None:
    app.failures.update(pay=FOR_GOOD, charge=FOR_GOOD)
    life = _undone(app.pay, is_undone=True)
    first = _undoing()
    assert first.status == "FAILED"
    assert operations.retry(ids=[first.pk], dry_run=True).done

    life.run.retry_from("charge")
    assert not operations.retry(ids=[first.pk]).done, "its function runs again"
    life.play()
    again = operations.retry(ids=[first.pk])
    assert "was undone by another run" in again.skipped[first.pk]
    app.failures.clear()
    assert operations.retry(ids=[_undoing().pk]).done
    life.play()

    assert _statuses(life) == {"refund": "done"}


def test_a_function_whose_compensations_have_all_failed_goes_on_by_a_retry() -> None:
    app.failures.update(pay=1, charge=1)
    life = _undone(app.pay, is_undone=True)

    assert operations.retry(ids=[life.call.id]).done
    life.play()

    assert life.status() == "SUCCESS"
    assert _rows() == ["charge"]


@pytest.mark.parametrize("name", ["sizes", "approval", "night"])
def test_a_cancelled_function_goes_on_from_a_step_at_once_whatever_it_has_waited_for(
    name: str,
) -> None:
    life = Life(app.wait_for_each.using(queue="table").execute_on_commit(last=name))
    life.deliver()
    life.run.cancel()
    life.rest()

    life.run.retry_from("work")
    assert life.deliver()

    assert _rows() == ["work", "work"]


def test_a_function_that_was_cancelled_while_its_tasks_ran_goes_on_by_a_retry() -> None:
    life = Life(app.wait_for_each.using(queue="table").execute_on_commit(last="sizes"))
    life.deliver()
    life.run.cancel()
    life.rest()

    last = TaskRecord.objects.get(run_after__isnull=False, status="CANCELLED")
    assert operations.retry(ids=[last.pk]).done
    life.play()

    assert life.call.result(timeout=PATIENCE_S) == 2, "its tasks were cancelled with it"


def test_a_function_that_waits_in_a_group_of_asyncio_is_undone() -> None:
    life = Life(app.sleep_in_a_group.using(queue="table").execute_on_commit())
    life.rest()

    assert life.run.cancel()
    life.play()

    assert app.tried == ["charge"]
    assert _undoing().status == "SUCCESS"


def test_code_that_goes_on_after_the_end_of_its_replay_names_nothing_more() -> None:
    life = Life(app.name_it_in_the_end.using(queue="table").execute_on_commit())
    life.rest()

    life.run.cancel()
    life.play()

    assert app.tried == ["charge"]


def test_a_cancel_that_meets_the_end_of_a_run_cancels_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lambda_tasks.records import steering

    life = Life(app.sleep_in_a_group.using(queue="table").execute_on_commit())
    cancel = steering.cancel

    def cancel_late(ids: Any) -> int:
        """Let a run end that was found, before it is cancelled."""
        life.deliver()
        return cancel(ids)

    monkeypatch.setattr(steering, "cancel", cancel_late)

    assert DurableRun(life.call.id).cancel()

    assert life.status() == "CANCELLED"
