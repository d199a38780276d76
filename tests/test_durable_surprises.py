"""Durable functions where users of others were surprised, and code that changes meanwhile."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import async_to_sync

from lambda_tasks import Invocation, TaskContext, TaskFailed, operations, runtime
from lambda_tasks.durable import DurableRun
from lambda_tasks.models import StepCheckpoint, TaskRecord, Workflow
from lambda_tasks.records import checkpoints
from lambda_tasks.workflows import WorkflowRun
from tests.app import durable_lines as app
from tests.app import durable_surprises as surprises
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, relay
from tests.durable_model import Function, Line
from tests.durable_play import Life, Playing, pass_time

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    surprises.calls.clear()
    yield
    app.release = None
    app.strike = lambda point: None


def _life(task: Any, **kwargs: Any) -> Life:
    return Life(task.using(queue="table").execute_on_commit(**kwargs))


def _rows() -> Counter[str]:
    return Counter(Effect.objects.values_list("name", flat=True))


def _replay(life: Life) -> UUID:
    """The id of a new call, like that of a function that has ended."""
    last = checkpoints.runs_of(life.call.id).latest("enqueued_at")
    (new,) = operations.replay(ids=[last.pk]).new.values()
    return new


def _error(life: Life) -> str:
    with pytest.raises(TaskFailed) as failed:
        life.call.result(timeout=PATIENCE_S)
    return str(failed.value)


# What has surprised others


def test_steps_that_begin_at_once_may_do_so_in_another_order_in_each_run() -> None:
    life = _life(surprises.in_any_order)

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == [1] * 8
    assert _rows() == dict.fromkeys("abcdefgh", 1)


def test_a_step_whose_error_was_caught_is_not_tried_again_in_the_next_run() -> None:
    life = _life(surprises.catch_and_sleep)

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == "declined"
    assert surprises.calls == {"charge": 1}
    assert _rows() == {}


def test_a_result_that_is_too_large_fails_at_once_and_leaves_nothing() -> None:
    life = _life(surprises.keep_too_much, size=10_000_000)

    life.play()

    assert "fill" in _error(life)
    assert "bytes" in _error(life)
    assert _rows() == {}


def test_code_that_goes_on_after_any_error_does_not_go_on_before_a_sleep_is_over() -> None:
    life = _life(surprises.shrug)

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == "slept"


def test_code_that_swallows_even_the_end_of_its_run_sleeps_all_the_same() -> None:
    life = _life(surprises.swallow_everything)
    life.rest()
    assert TaskRecord.objects.filter(status="QUEUED").exists()

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == "slept, or not"


def test_a_step_in_a_finally_block_runs_when_the_function_ends_and_not_when_it_sleeps() -> None:
    life = _life(surprises.clean_up_in_the_end)
    life.rest()
    assert _rows() == {}

    life.play()

    assert life.call.result(timeout=PATIENCE_S) is None
    assert _rows() == {"work": 1, "clean up": 1}


def test_a_wait_within_a_step_is_an_error_that_says_so() -> None:
    life = _life(surprises.wait_within_a_step)

    life.rest()

    assert "approval" in _error(life)
    assert "within" in _error(life)


def test_a_signal_after_the_timeout_is_told_to_its_sender_and_changes_nothing() -> None:
    life = _life(surprises.wait_and_sleep)
    life.rest()
    pass_time(surprises.DAY + HOUR)
    life.rest()

    with pytest.raises(LookupError, match="approval"):
        life.run.signal("approval", 7)
    life.play()

    assert life.call.result(timeout=PATIENCE_S) == [None]


def test_the_first_signal_of_a_name_counts_and_the_second_sender_hears_of_it() -> None:
    life = _life(surprises.wait_and_sleep)
    assert life.run.signal("approval", 7)
    assert not life.run.signal("approval", 8)

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == [7]


def test_a_function_that_is_cancelled_while_it_sleeps_is_undone_without_being_woken() -> None:
    life = _life(surprises.undo_and_sleep)
    life.rest()

    assert life.run.cancel()
    life.rest()

    assert life.status() == "CANCELLED"
    assert _rows() == {"charge": 1, "refund": 1}
    assert not life.run.cancel()


def test_the_next_run_reads_all_steps_with_one_statement(statements: Any) -> None:
    counts = []
    for steps in (2, 30):
        life = _life(surprises.take_many_steps, steps=steps)
        life.rest()
        pass_time(surprises.DAY + HOUR)
        with statements() as counted:
            life.rest()
        counts.append(len(counted))

    assert counts[0] == counts[1]


@pytest.mark.parametrize("text", surprises.TEXTS)
def test_an_error_that_no_database_takes_is_kept_as_its_text_can_be(text: str) -> None:
    life = _life(surprises.catch_what_no_row_takes, text=text)

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == "declined"
    assert len(str(StepCheckpoint.objects.get(name="decline").error)) < 10_000


@pytest.mark.parametrize("is_async", [True, False])
def test_a_step_that_is_cancelled_from_outside_is_undone_and_nothing_follows_it(
    is_async: bool,
) -> None:
    life = _life(surprises.cancel_a_step, is_async=is_async)

    life.play()

    assert "the step 'cancelled' was cancelled from outside of it" in _error(life)
    assert _rows() == {}


@pytest.mark.parametrize("is_async", [True, False])
def test_a_step_whose_sibling_has_failed_in_a_group_of_asyncio_does_not_begin(
    is_async: bool,
) -> None:
    life = _life(surprises.fail_in_a_group, is_async=is_async)

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == "told"
    assert _rows() == {"tell": 1}


@pytest.mark.parametrize("comes", [True, False])
def test_an_early_signal_of_the_wrong_type_is_dropped_and_the_right_one_may_come(
    comes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    life = _life(surprises.wait_and_sleep)
    assert life.run.signal("approval", "no number")
    life.rest()
    assert "The signal 'approval' of tests.app.durable_surprises.wait_and_sleep is no int" in (
        caplog.text
    )

    if comes:
        assert life.run.signal("approval", 7)
    life.play()

    assert life.call.result(timeout=PATIENCE_S) == [7 if comes else None]


def test_a_gather_whose_workflow_was_cancelled_tells_that_its_members_have_not_succeeded() -> None:
    life = _life(surprises.gather_and_sleep)
    life.deliver()

    WorkflowRun(Workflow.objects.get().pk).cancel()
    life.play()

    assert life.call.result(timeout=PATIENCE_S) == [2, 2]


def test_results_are_kept_as_long_as_the_function_that_sleeps_may_read_them() -> None:
    life = _life(surprises.gather_and_sleep)
    life.rest()

    operations.purge(all_time=True)
    life.play()

    assert life.call.result(timeout=PATIENCE_S) == [2, 0, 0, 10]


def test_steps_are_kept_until_the_last_record_of_their_call_is_deleted() -> None:
    life = _life(surprises.sleep_and_fail)
    life.play()
    replayed = _replay(life)
    life.play()
    last = checkpoints.runs_of(replayed).get(status="FAILED")

    operations.purge(all_time=True, status="SUCCESS")
    Effect.objects.create(name="repaired")
    assert operations.retry(ids=[last.pk]).done
    life.play()

    last.refresh_from_db()
    assert last.status == "SUCCESS"
    assert _rows() == {"work": 2, "repaired": 1}


@pytest.mark.parametrize("fails", [True, False])
def test_names_that_look_alike_are_different_ones(fails: bool) -> None:
    life = _life(surprises.look_alike)
    life.run.signal("go", 1)
    life.rest()

    life.run.signal("GO", 2 if fails else 5)
    life.play()

    done = dict.fromkeys(("a", "A", "\u00e4", "\u00df", "ss"), 1)
    assert _rows() == (done | {f"undo {name}": 1 for name in done} if fails else done)


def test_a_step_within_a_transaction_of_the_function_is_an_error_that_says_so() -> None:
    life = _life(surprises.begin_in_a_transaction)

    life.play()

    assert "transaction" in _error(life)
    assert _rows() == {}


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_schedule_skips_no_function_that_has_begun(is_cancelled: bool) -> None:
    life = _life(surprises.undo_and_sleep)
    headers = {"lambda_tasks.schedule": "each", "lambda_tasks.overlap": "skip"}
    record = TaskRecord.objects.get()
    TaskRecord.objects.update(headers={**(record.headers or {}), **headers})
    life.rest()

    with runtime.current().locks.hold("lambda_tasks.schedule_lock.each", timeout_s=3600):
        if is_cancelled:
            life.run.cancel()
        pass_time(surprises.DAY + HOUR)
        life.deliver()
        assert life.status() == ("CANCELLED" if is_cancelled else "QUEUED")
    life.play()

    assert life.status() == ("CANCELLED" if is_cancelled else "SUCCESS")
    assert _rows() == {"charge": 1, **({"refund": 1} if is_cancelled else {})}


@pytest.mark.parametrize("returns", [True, False])
def test_code_that_goes_on_after_any_error_does_not_go_on_without_its_database(
    returns: bool,
) -> None:
    life = _life(surprises.go_on_in_any_case, returns=returns)

    life.play()

    assert life.call.result(timeout=PATIENCE_S) == "charged"
    assert _rows() == {"charge": 1}


def test_a_function_that_fails_behind_a_wait_ends() -> None:
    life = _life(surprises.wait_and_fail)
    life.rest()
    life.run.signal("approval", 7)

    life.rest()

    assert life.status() == "FAILED"


def test_the_replay_of_a_function_waits_for_signals_of_its_own() -> None:
    life = _life(surprises.wait_and_sleep)
    life.run.signal("approval", 7)
    life.play()

    replayed = _replay(life)
    life.rest()
    with pytest.raises(LookupError, match="it has ended"):
        life.run.signal("approval", 8)
    assert DurableRun(replayed).signal("approval", 9)
    life.play()

    assert Invocation(replayed, life.call.task_name).result(timeout=PATIENCE_S) == [9]


def test_a_cancel_reaches_a_function_that_the_function_runs_and_undoes_both_once() -> None:
    life = _life(surprises.run_another)
    life.rest()
    assert _rows() == {"book": 1, "charge": 1}

    assert life.run.cancel()
    assert not life.run.cancel()
    life.play()

    assert _rows() == {"book": 1, "charge": 1, "refund": 1, "cancel the booking": 1}
    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"SUCCESS", "CANCELLED"}


def test_a_function_that_sleeps_leaves_its_place_to_another_one() -> None:
    first = _life(surprises.sleep_alone, name="first")
    first.rest()

    _life(surprises.sleep_alone, name="second")
    first.rest()

    assert _rows() == {"first": 1, "second": 1}


def test_a_signal_may_come_while_a_function_goes_on_for_lack_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def remaining(context: TaskContext) -> float:
        return 100.0 if Effect.objects.count() % 2 == 0 else 10.0

    monkeypatch.setattr(TaskContext, "remaining", remaining)
    life = _life(surprises.hurry_and_wait)
    life.deliver()
    assert life.status() == "QUEUED"

    assert life.run.signal("approval", 7)
    life.play()

    assert life.call.result(timeout=PATIENCE_S) == 7
    assert _rows() == {"step": 4}


def test_a_thousand_functions_that_sleep_cost_no_statement_of_relay_and_tick(
    statements: Any,
) -> None:
    life = _life(surprises.undo_and_sleep)
    life.rest()
    asleep = TaskRecord.objects.get(status="QUEUED")

    def look() -> int:
        with statements() as counted:
            assert not relay()
            async_to_sync(runtime.current().scheduler.tick)()
        return len(counted)

    look()  # what happens once for a process
    with_one = look()
    values = {each.attname: getattr(asleep, each.attname) for each in TaskRecord._meta.fields}
    TaskRecord.objects.bulk_create(
        TaskRecord(**{**values, "id": uuid4(), "root_id": uuid4()}) for _ in range(1_000)
    )

    assert look() == with_one


# Code that changes while a function sleeps

BEFORE = (Line("a"), Line("b"), Line("nap", "sleep"), Line("c"))


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("after", "rows"),
    [
        pytest.param(
            (Line("a"), Line("new"), Line("b"), Line("nap", "sleep"), Line("c")),
            ["a", "b", "new", "c"],
            id="added before the sleep",
        ),
        pytest.param((*BEFORE, Line("new")), ["a", "b", "c", "new"], id="added behind it"),
        pytest.param(
            (Line("a"), Line("nap", "sleep"), Line("c")), ["a", "b", "c"], id="removed before it"
        ),
        pytest.param((Line("a"), Line("b"), Line("nap", "sleep")), ["a", "b"], id="removed"),
        pytest.param(
            (Line("b"), Line("a"), Line("nap", "sleep"), Line("c")),
            ["a", "b", "c"],
            id="in another order",
        ),
        pytest.param(
            (Line("c"), Line("nap", "sleep"), Line("b"), Line("a")),
            ["a", "b", "c"],
            id="all in another order",
        ),
        pytest.param((Line("a"), Line("b"), Line("c")), ["a", "b", "c"], id="without the sleep"),
        pytest.param(
            (Line("a"), Line("another name"), Line("nap", "sleep"), Line("c")),
            ["a", "b", "another name", "c"],
            id="renamed, which is a new step",
        ),
    ],
)
def test_a_function_that_sleeps_goes_on_in_the_code_of_a_later_release(
    is_async: bool, after: tuple[Line, ...], rows: list[str]
) -> None:
    playing = Playing(Function(BEFORE), is_async=is_async)
    playing.rest()
    assert playing.rows() == {"a": 1, "b": 1}

    app.release = after
    playing.play()

    assert playing.status() == "SUCCESS"
    assert playing.rows() == dict.fromkeys(rows, 1)


def test_a_compensation_that_a_later_release_registers_no_more_still_runs() -> None:
    lines = (Line("a", is_undone=True), Line("nap", "sleep"), Line("c"))
    playing = Playing(Function(lines, fails=True))
    playing.rest()

    app.release = (Line("a"), Line("nap", "sleep"), Line("c"))
    playing.play()

    assert playing.status() == "FAILED"
    assert playing.undone() == ["a"]
