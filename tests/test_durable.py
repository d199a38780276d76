"""Durable functions: one function of steps that survives every crash."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.db import transaction
from pydantic import SecretStr

from lambda_tasks import (
    LambdaTaskWrapper,
    TaskContext,
    WorkflowContext,
    lambda_task,
    operations,
    runtime,
)
from lambda_tasks.core.redaction import REDACTED
from lambda_tasks.durable import DurableRun, SyncWorkflowContext, signal, steps
from lambda_tasks.errors import TaskFailed
from lambda_tasks.models import StepCheckpoint, StepSignal, TaskRecord, Workflow
from lambda_tasks.tasks import cleanup_task_records
from lambda_tasks.testing import CapturedTasks, simulate
from lambda_tasks.workflows import workflow as graph
from tests.app import durable, graphs
from tests.app.durable import Approval
from tests.app.models import Effect
from tests.conftest import Task

pytestmark = pytest.mark.django_db

ONE_OF_EVERYTHING = [
    "charge 7", "resize 0", "resize 1", "resize 2", "mail receipt 7", "noted",
]  # fmt: skip


def _effects() -> list[str]:
    return list(Effect.objects.order_by("pk").values_list("name", flat=True))


def _statuses() -> list[str]:
    return list(TaskRecord.objects.order_by("enqueued_at").values_list("status", flat=True))


def _make_old() -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    TaskRecord.objects.filter(end_time__isnull=False).update(end_time=long_ago)
    Workflow.objects.update(ended_at=long_ago)


@pytest.mark.parametrize("fault", [None, "crash", "duplicate"])
def test_a_function_goes_its_way_once_whatever_happens(
    captured_tasks: CapturedTasks, fault: Any
) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)

    def run(**options: Any) -> None:
        if fault is None:
            captured_tasks.run(**options)
            return
        with simulate(fault):
            captured_tasks.run(**options)

    run()
    assert _effects() == ONE_OF_EVERYTHING[:4]
    assert signal(call.id, "approval", Approval(by="Ann"))
    run()

    assert sorted(_effects()) == sorted(ONE_OF_EVERYTHING)
    assert call.result(timeout=5) == "receipt 7, 30 of 3, Ann, noted"
    assert set(_statuses()) == {"SUCCESS"}
    assert [(each.name, each.kind, each.status) for each in DurableRun(call.id).steps()] == [
        ("charge", "step", "done"),
        ("refund", "on_failure", "waiting"),
        ("pack", "gather", "done"),
        ("approval", "wait_for", "done"),
        ("cool down", "sleep", "done"),
        ("mail", "step", "done"),
        ("note", "run", "done"),
    ]


def test_a_function_that_is_a_def_does_the_same(captured_tasks: CapturedTasks) -> None:
    call = durable.fulfil_sync.execute_on_commit(order_id=7)

    with simulate("crash"):
        captured_tasks.run(raise_failures=False)
        signal(call.id, "approval")
        captured_tasks.run(raise_failures=False)

    assert call.result(timeout=5) == "receipt 7, [0, 20], 1 failed, True"
    assert _effects() == ["mail receipt 7", "resize 0", "resize 2"]


def test_a_wait_ends_with_its_timeout(captured_tasks: CapturedTasks) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)

    captured_tasks.run(times_out=True)

    assert call.result(timeout=5) == "receipt 7, 30 of 3, None, noted"
    with pytest.raises(LookupError, match="it has ended"):
        signal(call.id, "approval", Approval(by="Ann"))


def test_a_wait_for_ever_does_not_time_out(captured_tasks: CapturedTasks) -> None:
    durable.fulfil_sync.execute_on_commit(order_id=7)

    captured_tasks.run(times_out=True, raise_failures=False)

    assert "QUEUED" in _statuses()


def test_a_signal_that_comes_before_its_wait_is_kept(captured_tasks: CapturedTasks) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)

    assert signal(call.id, "approval", Approval(by="Ann"))
    assert not signal(call.id, "approval", Approval(by="Bob")), "the first one counts"
    captured_tasks.run()

    assert call.result(timeout=5) == "receipt 7, 30 of 3, Ann, noted"


def test_a_signal_goes_with_the_transaction_that_sends_it(captured_tasks: CapturedTasks) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)
    captured_tasks.run()

    with pytest.raises(ZeroDivisionError), transaction.atomic():
        signal(call.id, "approval", Approval(by="Ann"))
        raise ZeroDivisionError
    captured_tasks.run()

    assert DurableRun(call.id).steps()[-1].status == "waiting"
    assert StepSignal.objects.get().came_at is None


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (5, TypeError, "the signal 'approval' is no Approval"),
        (object(), TypeError, "can't be serialized to JSON"),
        ("x" * 70_000, ValueError, "has 70002 bytes and may have 65536"),
    ],
)
def test_a_signal_that_does_not_fit_is_refused_where_it_is_sent(
    captured_tasks: CapturedTasks, value: object, error: type[Exception], words: str
) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)
    captured_tasks.run()

    with pytest.raises(error, match=words):
        signal(call.id, "approval", value)

    assert signal(call.id, "approval", Approval(by="Ann"))


def test_a_signal_for_nobody_is_told(captured_tasks: CapturedTasks) -> None:
    other = graphs.note.execute_on_commit(text="no function")

    for id in (uuid4(), other.id):
        with pytest.raises(LookupError, match="Nobody waits for the signal 'go'"):
            signal(id, "go")
    with pytest.raises(ValueError, match="A step's name has 1 to 200 printable characters"):
        signal(other.id, "")


@pytest.mark.parametrize("fault", [None, "crash"])
def test_what_was_done_is_undone_in_reverse_if_the_function_fails(
    captured_tasks: CapturedTasks, fault: Any
) -> None:
    call = durable.undo_both.execute_on_commit()

    if fault is None:
        captured_tasks.run(raise_failures=False)
    else:
        with simulate(fault):
            captured_tasks.run(raise_failures=False)

    assert _effects() == ["charge 1", "mail locked", "unlock locked", "refund receipt 1"]
    assert _statuses() == ["FAILED", "SUCCESS"]
    with pytest.raises(TaskFailed, match="not yet"):
        call.result(timeout=5)


@pytest.mark.parametrize("fault", [None, "crash"])
def test_what_was_done_is_undone_if_it_is_cancelled_while_it_waits(
    captured_tasks: CapturedTasks, fault: Any
) -> None:
    call = durable.undo_both.execute_on_commit(waits=True)
    captured_tasks.run()

    assert DurableRun(call.id).cancel()
    if fault is None:
        captured_tasks.run()
    else:
        with simulate(fault):
            captured_tasks.run()

    assert _effects() == [
        "charge 1", "mail locked", "never", "unlock locked", "refund receipt 1",
    ]  # fmt: skip
    assert not DurableRun(call.id).cancel(), "it has ended"
    with pytest.raises(LookupError, match="it has ended"):
        signal(call.id, "approval")


def test_what_it_waits_for_is_cancelled_with_it(captured_tasks: CapturedTasks) -> None:
    call = durable.undo_both.execute_on_commit(waits=True)
    captured_tasks.run()
    Workflow.objects.update(status="RUNNING", ended_at=None)

    DurableRun(call.id).cancel()

    assert Workflow.objects.get().status == "CANCELLED"


def test_what_was_done_and_not_yet_named_is_undone_after_a_cancel(
    captured_tasks: CapturedTasks,
) -> None:
    """The function names it again: it is called once more, up to its last step."""
    call = durable.undo_both.execute_on_commit(waits=True)
    captured_tasks.run()
    StepCheckpoint.objects.exclude(name="charge").delete()

    DurableRun(call.id).cancel()
    captured_tasks.run()

    assert _effects()[3:] == ["refund receipt 1"]


def test_a_failed_function_goes_on_where_it_failed(
    captured_tasks: CapturedTasks, django_capture_on_commit_callbacks: Any
) -> None:
    call = durable.repair.execute_on_commit()
    captured_tasks.run(raise_failures=False)
    assert _statuses() == ["FAILED"]
    Effect.objects.create(name="repaired")

    with django_capture_on_commit_callbacks(execute=True):
        operations.retry(ids=[call.id])
    captured_tasks.run()

    assert _effects() == ["mail first", "repaired", "mail last"]
    assert call.result(timeout=5) == "repaired by last"


def test_a_failed_function_goes_on_from_an_earlier_step(captured_tasks: CapturedTasks) -> None:
    call = durable.repair.execute_on_commit()
    captured_tasks.run(raise_failures=False)
    Effect.objects.create(name="repaired")
    run = DurableRun(call.id)

    with pytest.raises(LookupError, match=r"has no step 'none'\. It has: 'mail'"):
        run.retry_from("none")
    run.retry_from("mail")
    with pytest.raises(ValueError, match="is QUEUED, and only what has failed"):
        run.retry_from("mail")
    captured_tasks.run()

    assert _effects() == ["mail first", "repaired", "mail first", "mail last"]
    assert call.result(timeout=5) == "repaired by last"


def test_what_was_undone_is_not_gone_on_from(captured_tasks: CapturedTasks) -> None:
    call = durable.undo_both.execute_on_commit()
    captured_tasks.run(raise_failures=False)
    run = DurableRun(call.id)

    with pytest.raises(ValueError, match="'refund' has undone what was before it"):
        run.retry_from("mail")
    Effect.objects.all().delete()
    run.retry_from("charge")
    captured_tasks.run(raise_failures=False)

    assert _effects() == ["charge 1", "mail locked", "unlock locked", "refund receipt 1"]


def test_retries_go_on_behind_the_steps_that_are_done(captured_tasks: CapturedTasks) -> None:
    call = durable.insist.execute_on_commit()

    captured_tasks.run()

    assert _effects() == ["charge 1", "mail at last"]
    assert _statuses() == ["RETRYING", "RETRYING", "SUCCESS"]
    assert call.result(timeout=5) == 1


@pytest.mark.parametrize("fault", [None, "crash"])
def test_an_error_that_was_caught_stays_one(captured_tasks: CapturedTasks, fault: Any) -> None:
    call = durable.catch.execute_on_commit()

    if fault is None:
        captured_tasks.run()
    else:
        with simulate(fault):
            captured_tasks.run()

    assert call.result(timeout=5) == "not yet"
    assert _effects() == ["mail not yet", "repaired"]
    assert DurableRun(call.id).steps()[0].status == "failed"


def test_a_task_that_fails_raises_where_it_is_awaited(captured_tasks: CapturedTasks) -> None:
    call = durable.try_child.execute_on_commit()

    captured_tasks.run(raise_failures=False)

    assert "The task 'pack' is FAILED" in call.result(timeout=5)
    assert "image 1" in call.result(timeout=5)


def test_a_function_is_a_step_of_a_workflow_until_its_end(captured_tasks: CapturedTasks) -> None:
    first = durable.catch.step()
    run = graph("outer", graphs.note.step(text="behind").after(first)).execute_on_commit()

    captured_tasks.run()

    assert _effects() == ["mail not yet", "repaired", "behind"]
    assert run.status() == "SUCCESS"
    assert run.progress() == (2, 2, 0)


def test_log_lines_are_written_once(
    captured_tasks: CapturedTasks, caplog: pytest.LogCaptureFixture
) -> None:
    durable.talk.execute_on_commit()

    with caplog.at_level(logging.INFO, "lambda_tasks.task"):
        captured_tasks.run()

    assert durable.talk.name in caplog.text, "the library's own lines"
    lines = [each for each in caplog.records if each.pathname.endswith("app/durable.py")]
    said = [each.getMessage().rpartition(" ")[2] for each in lines]
    assert said == ["before", "between", "behind"]


def test_code_may_change_while_a_function_sleeps(
    captured_tasks: CapturedTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = durable.changes.execute_on_commit()
    captured_tasks_run_to_sleep(captured_tasks)

    async def new_way(workflow: WorkflowContext) -> str:
        await workflow.step("zeroth", durable.charge, order_id=0)
        await workflow.step("second", durable.charge, order_id=2)
        await workflow.sleep("a month", timedelta(days=30))
        await workflow.step("first", durable.charge, order_id=1)
        return "new"

    monkeypatch.setattr(durable, "way", new_way)
    captured_tasks.run()

    assert call.result(timeout=5) == "new"
    assert _effects() == ["charge 1", "charge 2", "charge 0"]


def captured_tasks_run_to_sleep(captured: CapturedTasks) -> None:
    """Deliver the first message alone."""
    (first,) = captured._store_outstanding(captured._count_enqueued())
    captured._delivered[first.message.invocation_id] += 1
    with runtime.replace_current(captured._runtime):
        async_to_sync(captured._deliver)(first)


def test_a_run_that_is_short_of_time_goes_on_in_the_next(
    captured_tasks: CapturedTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remaining(context: TaskContext) -> float:
        done = Effect.objects.count()
        began = TaskRecord.objects.filter(status="SUCCESS").count()
        return 100.0 - 20.0 * (done - 3 * began)

    monkeypatch.setattr(TaskContext, "remaining", remaining)
    call = durable.twelve.execute_on_commit()

    captured_tasks.run()

    assert call.result(timeout=5) == 12
    assert _effects() == [f"mail {n}" for n in range(12)]
    assert _statuses() == ["SUCCESS"] * 4


def test_a_key_stays_the_same(captured_tasks: CapturedTasks) -> None:
    call = durable.keys.execute_on_commit()

    captured_tasks.run()

    first, second, other = call.result(timeout=5)
    assert first == second != other


def test_a_replay_begins_anew(captured_tasks: CapturedTasks) -> None:
    call = durable.repair.execute_on_commit()
    Effect.objects.create(name="repaired")
    captured_tasks.run()

    operations.replay(ids=[call.id])
    captured_tasks.run()

    assert _effects() == ["repaired", *["mail first", "mail last"] * 2]


async def _nothing() -> None: ...


async def _nested(workflow: WorkflowContext) -> None:
    async def inner() -> None:
        await workflow.step("inner", _nothing)

    await workflow.step("outer", inner)


async def _twice(workflow: WorkflowContext) -> None:
    await workflow.step("a", _nothing)
    await workflow.step("a", _nothing)


async def _not_json(workflow: WorkflowContext) -> None:
    await workflow.step("a", object)


async def _too_large(workflow: WorkflowContext) -> None:
    await workflow.step("a", lambda: "x" * 70_000)


async def _long_name(workflow: WorkflowContext) -> None:
    await workflow.step("a" * 201, _nothing)


async def _a_call(workflow: WorkflowContext) -> None:
    await workflow.step("a", graphs.note.step(text="x"))  # type: ignore[call-overload]


async def _no_call(workflow: WorkflowContext) -> None:
    await workflow.run("a", _nothing)  # type: ignore[arg-type]


async def _naive(workflow: WorkflowContext) -> None:
    await workflow.sleep("a", datetime(2030, 1, 1))


async def _too_long(workflow: WorkflowContext) -> None:
    await workflow.sleep("a", timedelta(days=4000))


async def _no_undo(workflow: WorkflowContext) -> None:
    workflow.on_failure("a", lambda: None)


async def _other_kind(workflow: WorkflowContext) -> None:
    if not workflow.is_replaying:
        await workflow.step("a", _nothing)
        await workflow.sleep("b", timedelta(days=1))
    await workflow.sleep("a", timedelta(days=1))


@lambda_task(workflow=True)
async def misuse(workflow: WorkflowContext, *, name: str) -> None:
    await globals()[name](workflow)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("_nested", "RuntimeError", "'inner' begins within the step 'outer'"),
        ("_twice", "ValueError", "has used the name 'a' before in this run"),
        ("_not_json", "TypeError", "can't be serialized to JSON"),
        ("_too_large", "ValueError", "has 70002 bytes and may have 65536"),
        ("_long_name", "ValueError", "A step's name has 1 to 200 printable characters"),
        ("_a_call", "TypeError", "a call of a task. Use run() for it"),
        ("_no_call", "TypeError", "Pass a call of a task: `task.step(...)`"),
        ("_naive", "ValueError", "which has no time zone"),
        ("_too_long", "ValueError", "the longest time is ten years"),
        ("_no_undo", "TypeError", "must be a function of a module"),
        ("_other_kind", "ValueError", "'a' was a step when it began, and is a sleep now"),
    ],
)
def test_misuse_fails_the_function_with_the_fix(
    captured_tasks: CapturedTasks, name: str, error: str, words: str
) -> None:
    misuse.execute_on_commit(name=name)

    captured_tasks.run(raise_failures=False)

    failed = TaskRecord.objects.get(status="FAILED")
    assert failed.exception_class == f"builtins.{error}"
    assert words in (failed.traceback or "")


def _async_with_sync_context(workflow: WorkflowContext) -> None: ...


async def _sync_with_async_context(workflow: SyncWorkflowContext) -> None: ...


def _no_context(*, order_id: int) -> None: ...


def _without_option(workflow: SyncWorkflowContext) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (_async_with_sync_context, {"workflow": True}, "`workflow: SyncWorkflowContext`"),
        (_sync_with_async_context, {"workflow": True}, "`workflow: WorkflowContext`"),
        (_no_context, {"workflow": True}, "its first parameter is `workflow"),
        (_without_option, {}, "`@lambda_task\\(workflow=True\\)`"),
        (_without_option, {"workflow": True, "atomic": True}, "remove `atomic`"),
        (_without_option, {"workflow": True, "durable": False}, "remove `durable`"),
    ],
)
def test_a_function_that_can_not_be_one_is_refused_at_once(
    function: Callable[..., Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        LambdaTaskWrapper(function, **options)


def test_steps_are_shown(captured_tasks: CapturedTasks) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)
    captured_tasks.run()
    out = StringIO()

    call_command("lambda_tasks", "show", str(call.id), stdout=out)

    assert "charge: step, done 'receipt 7'" in out.getvalue()
    assert "approval: waits for the signal until 20" in out.getvalue()


def test_records_of_a_function_that_runs_are_kept_and_its_steps_go_with_them(
    captured_tasks: CapturedTasks,
) -> None:
    call = durable.fulfil.execute_on_commit(order_id=7)
    captured_tasks.run()
    TaskRecord.objects.filter(end_time__isnull=False).update(
        end_time=datetime(2020, 1, 1, tzinfo=UTC)
    )
    Workflow.objects.update(ended_at=datetime(2020, 1, 1, tzinfo=UTC))
    before = TaskRecord.objects.count()

    cleanup_task_records.execute_on_commit()
    captured_tasks.run()
    assert TaskRecord.objects.exclude(task_name__contains="cleanup").count() == before
    signal(call.id, "approval", Approval(by="Ann"))
    captured_tasks.run()
    assert call.result(timeout=5) == "receipt 7, 30 of 3, Ann, noted"

    TaskRecord.objects.filter(end_time__isnull=False).update(
        end_time=datetime(2020, 1, 1, tzinfo=UTC)
    )
    Workflow.objects.update(ended_at=datetime(2020, 1, 1, tzinfo=UTC))
    for _ in range(2):  # the workflows that it waited for go after its steps
        cleanup_task_records.execute_on_commit()
        captured_tasks.run()

    assert not StepCheckpoint.objects.exists()
    assert not StepSignal.objects.exists()
    assert not Workflow.objects.exists()


@pytest.mark.parametrize("task", [durable.fulfil, durable.fulfil_sync])
def test_eager_mode_runs_a_function_up_to_its_wait_and_on(
    transactional_db: None, settings: Any, task: Task
) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    call = task.execute_on_commit(order_id=7)
    assert DurableRun(call.id).steps()[-1].name == "approval"
    signal(call.id, "approval", Approval(by="Ann") if task is durable.fulfil else True)

    assert call.result(timeout=5).startswith("receipt 7, ")


def test_a_direct_call_does_its_steps_and_can_not_wait() -> None:
    first, second, _ = async_to_sync(durable.keys)()

    assert first == second
    with pytest.raises(RuntimeError, match="gather\\(\\) needs a run that can end"):
        async_to_sync(durable.fulfil)(order_id=7)
    assert _effects() == ["charge 7"]


def test_what_comes_of_secret_arguments_is_encrypted_and_not_shown(
    captured_tasks: CapturedTasks,
) -> None:
    call = durable.guarded.execute_on_commit(token=SecretStr("hush hush"))

    captured_tasks.run()

    assert call.result(timeout=5) == len("used hush hush")
    assert "hush" not in str(list(StepCheckpoint.objects.values()))
    assert DurableRun(call.id).steps()[0].value == REDACTED


def test_a_function_that_takes_long_outside_of_its_steps_is_told_once(
    captured_tasks: CapturedTasks,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(steps, "LONG_OUTSIDE_S", 0.0)
    monkeypatch.setattr(steps, "_told", set())
    durable.talk.execute_on_commit()

    captured_tasks.run()

    told = [each for each in caplog.messages if "outside of its steps" in each]
    assert len(told) == 1
    assert "tests.app.durable.talk took 0 s between its start and 'charge'" in told[0]


def test_a_call_from_before_the_task_was_a_durable_function_is_one_now(
    captured_tasks: CapturedTasks,
) -> None:
    call = durable.catch.execute_on_commit()
    TaskRecord.objects.update(headers=None)

    captured_tasks.run()

    assert call.result(timeout=5) == "not yet"
    assert DurableRun(call.id).steps()[-1].name == "a day"


def test_a_step_may_enqueue_another_function_in_eager_mode(
    transactional_db: None, settings: Any
) -> None:
    settings.LAMBDA_TASKS_EAGER = True

    durable.call_another.execute_on_commit()

    assert _statuses() == ["SUCCESS", "SUCCESS"]
