"""The counts of workflows: exactly once, in one order of locks, and at every end of a record."""

import ast
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, connections
from django.utils import timezone

import lambda_tasks
from lambda_tasks import operations, runtime
from lambda_tasks.core.lifecycle import Claim, End, Failed, Raised, Succeeded
from lambda_tasks.core.message import Message
from lambda_tasks.enqueue import on_commit
from lambda_tasks.errors import LeaseLost
from lambda_tasks.models import TaskRecord, Workflow, WorkflowJoin
from lambda_tasks.ports import ClaimedDelivery, Delivery, Granted, ResolvedDelivery
from lambda_tasks.records import steering
from lambda_tasks.records import workflows as workflow_records
from lambda_tasks.testing import capture_tasks, simulate
from lambda_tasks.workflows import WorkflowRun, group, workflow
from tests.app import graphs
from tests.app.models import Effect
from tests.conftest import PATIENCE_S

BROKEN = Failed(Raised("Broken", "broken"))

DOORS = {
    "cancelling._cancel",
    "cancelling._cancel_uncounted",
    "claims.RecordClaims.fail_direct",
    "claims._fail_exhausted",
    "claims._finish_all",
    "claims._finish_held",
    "portable.PortableStatements.finish_many",
    "postgres.PostgresStatements.finish_many",
    "refusals.refuse",
}
"""The functions that end records, by `finish` or `finish_many`. Each counts the ends of steps, or
ends those of a workflow that is over."""

STATUS_WRITERS = {"finishes.finished_columns"}
"""The functions that turn an outcome into a status."""


def _functions() -> Iterator[tuple[str, ast.AST]]:
    def walk(name: str, node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield f"{name}.{child.name}", child
            elif isinstance(child, ast.ClassDef):
                yield from walk(f"{name}.{child.name}", child)

    for path in (Path(lambda_tasks.__file__).parent / "records").glob("*.py"):
        yield from walk(path.stem, ast.parse(path.read_text()))


def _ends_records(function: ast.AST) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("finish", "finish_many"):
                return True
            if called == "update" and any(
                each.arg == "status"
                and "Status" in ast.dump(each.value)
                # these go on, or are the statuses of workflows
                and not {"WAITING", "QUEUED", "RUNNING"} & {getattr(each.value, "attr", "")}
                and "Workflow" not in ast.dump(each.value)
                for each in node.keywords
            ):
                return True
    return False


def test_every_function_that_ends_a_record_is_known_to_count() -> None:
    found = dict(_functions())

    assert {name for name, each in found.items() if _ends_records(each)} == DOORS
    assert {
        name
        for name, each in found.items()
        if any(isinstance(node, ast.Name) and node.id == "STATUS_OF" for node in ast.walk(each))
    } == STATUS_WRITERS


def _claim(ids: Sequence[uuid.UUID]) -> list[tuple[Claim, Any]]:
    """Claim invocations as a worker does; return each claim with its place."""
    deliveries = []
    for id in ids:
        record = TaskRecord.objects.get(id=id)
        task = graphs.measure if record.task_name.endswith("measure") else graphs.summarize
        message = Message(
            task_name=record.task_name, kwargs={}, invocation_id=id, durable=True,
            has_arguments=False,
        )  # fmt: skip
        delivery = Delivery(id=str(id), source="default", fallback_id=id)
        deliveries.append(ResolvedDelivery(delivery=delivery, message=message, task=task))
    claims = runtime.current().claims
    verdicts = claims.claim(deliveries, lease=timedelta(minutes=5), max_attempts=5)
    granted = [each for each in verdicts.values() if isinstance(each, Granted)]
    return [(each.claim, each.message.place) for each in granted]


def _gallery(n: int, **options: Any) -> tuple[WorkflowRun, list[uuid.UUID], uuid.UUID]:
    members = [graphs.measure.step(image_id=number) for number in range(n)]
    total = graphs.summarize.step(sizes=group(members, **options).results)
    with capture_tasks():
        run = workflow("gallery", total).execute_on_commit()
    return run, [each.id for each in members], total.id


def _end(claimed: tuple[Claim, Any], outcome: Any = None) -> End:
    claim, place = claimed
    return End(claim, outcome or Succeeded(1), timedelta(0), place=place)


def test_ends_at_the_same_time_are_counted_once_and_release_once(transactional_db: None) -> None:
    run, members, total = _gallery(130)
    claimed = _claim(members)
    assert len(claimed) == 130
    released: list[Any] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        claims = runtime.current().claims
        try:
            mine = claimed[number::4]
            released.extend(claims.finish_many([_end(each) for each in mine[:15]]).released)
            for each in mine[15:]:
                released.extend(claims.finish(_end(each)))
                with pytest.raises(LeaseLost):  # a zombie
                    claims.finish(_end(each, BROKEN))
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE_S)

    assert errors == []
    assert len(released) == 1
    follower = TaskRecord.objects.get(id=total)
    assert follower.status == "QUEUED"
    assert follower.look_at is not None
    ended = WorkflowJoin.objects.filter(workflow_id=run.id).exclude(number=2**31 - 1)
    assert {each.remaining for each in ended} == {0}


def test_what_fails_and_is_retried_again_and_again_releases_once(transactional_db: None) -> None:
    run, members, total = _gallery(70, need=69)
    claims = runtime.current().claims
    for _ in range(3):
        failing = [_end(each, BROKEN) for each in _claim(members)]
        assert claims.finish_many(failing).released == []
        assert run.status() == "FAILED"
        assert run.retry_failed() == 70
        assert run.status() == "RUNNING"
    claimed = _claim(members)

    assert claims.finish_many([_end(each, BROKEN) for each in claimed[:1]]).released == []
    assert len(claims.finish_many([_end(each) for each in claimed[1:]]).released) == 1

    (last,) = _claim([total])
    claims.finish(_end(last))
    assert run.status() == "SUCCESS"
    assert (run.progress().done, run.progress().failed) == (71, 1)


def test_a_member_that_is_cancelled_expired_or_exhausted_counts_as_failed(
    transactional_db: None,
) -> None:
    run, members, _ = _gallery(3)
    TaskRecord.objects.get(id=members[0]).cancel()
    TaskRecord.objects.filter(id=members[1]).update(n_attempts=5)
    assert _claim([members[1]]) == []

    assert run.status() == "RUNNING"
    TaskRecord.objects.filter(id=members[2]).cancel()

    assert run.status() == "FAILED"
    assert run.progress() == (3, 4, 3)


def test_a_handler_that_is_not_needed_counts_once_when_it_is_cancelled(
    transactional_db: None,
) -> None:
    first, other, handler = (graphs.measure.step(image_id=number) for number in range(3))
    with capture_tasks():
        run = workflow("order", first.on_failure(handler), other).execute_on_commit()
    claims = runtime.current().claims
    claims.finish(_end(*_claim([first.id])))

    assert TaskRecord.objects.get(id=handler.id).cancel()

    assert run.status() == "RUNNING"
    claims.finish(_end(*_claim([other.id])))
    assert run.status() == "SUCCESS"


@pytest.mark.parametrize("outcome", [Succeeded(1), BROKEN])
@pytest.mark.parametrize("retried", ["at once", "alone", "after the end", None])
def test_a_step_that_is_cancelled_while_it_waits_counts_with_its_gate(
    transactional_db: None, outcome: Any, retried: str | None
) -> None:
    first, other = (graphs.measure.step(image_id=number) for number in range(2))
    follower = graphs.measure.step(image_id=2).after(first)
    with capture_tasks():
        run = workflow("order", follower, other).execute_on_commit()
    claims = runtime.current().claims
    record = TaskRecord.objects.get(id=follower.id)

    record.cancel()
    if retried == "at once":
        assert run.retry_failed() == 1
        record.refresh_from_db()
        assert (record.status, record.look_at) == ("WAITING", None)
    (claimed,) = _claim([first.id])
    claims.finish(_end(claimed, outcome))

    assert run.status() == "RUNNING"
    claims.finish(_end(*_claim([other.id])))
    succeeds = isinstance(outcome, Succeeded)
    assert run.status() == ("RUNNING" if succeeds and retried == "at once" else "FAILED")
    if retried is None:
        return
    if retried == "alone":
        assert operations.retry(ids=[follower.id]).done == [follower.id]
        record.refresh_from_db()
        assert record.status == ("QUEUED" if succeeds else "WAITING")
        assert run.status() == ("RUNNING" if succeeds else "FAILED")
    run.retry_failed()
    if not succeeds:
        assert _claim([follower.id]) == []
        claims.finish(_end(*_claim([first.id])))
    claims.finish(_end(*_claim([follower.id])))
    assert run.status() == "SUCCESS"


@pytest.mark.skipif(connection.vendor == "sqlite", reason="it has one writer at a time")
def test_a_step_whose_workflow_is_cancelled_while_it_is_retried_is_left_out(
    transactional_db: None, monkeypatch: Any
) -> None:
    first, other = (graphs.measure.step(image_id=number) for number in range(2))
    with capture_tasks():
        run = workflow("order", first, other).execute_on_commit()
    (claimed,) = _claim([first.id])
    runtime.current().claims.finish(_end(claimed, BROKEN))
    keep = steering._keep_last_states

    def cancel_workflow() -> None:
        try:
            run.cancel()
        finally:
            connections.close_all()

    def keep_late(ids: Sequence[uuid.UUID]) -> None:
        cancelling = threading.Thread(target=cancel_workflow)
        cancelling.start()
        cancelling.join(PATIENCE_S)
        keep(ids)

    monkeypatch.setattr(steering, "_keep_last_states", keep_late)

    changes = operations.retry(ids=[first.id])

    assert changes.done == []
    assert "its workflow is CANCELLED" in changes.skipped[first.id]


@pytest.mark.parametrize("fault", ["crash", "duplicate"])
def test_faults_lose_and_double_no_follower(db: None, fault: Any) -> None:
    first = graphs.note.step(text="first")
    members = [graphs.resize.step(image_id=number).after(first) for number in range(3)]
    total = graphs.summarize.step(sizes=group(members).results)

    with capture_tasks() as captured, simulate(fault):
        run = workflow("gallery", total).execute_on_commit()
        captured.run()

    assert run.result(timeout=5)["sizes"] == [0, 10, 20]
    assert Effect.objects.count() == 5


def test_a_task_outside_of_workflows_asks_nothing_of_them(
    db: None, statements: Callable[[], Any]
) -> None:
    with capture_tasks() as captured, statements() as counted:
        graphs.charge.execute_on_commit(order_id=1, cents=5)
        captured.run()

    assert not [sql for sql in counted if "workflow" in sql and "lambda_tasks_workflow" in sql]


def test_the_end_of_a_member_costs_one_statement_for_its_count(
    transactional_db: None, statements: Callable[[], Any]
) -> None:
    _, members, _ = _gallery(40)
    claimed = _claim(members)

    with statements() as counted:
        runtime.current().claims.finish(_end(claimed[0]))
    with statements() as counted_together:
        runtime.current().claims.finish_many([_end(each) for each in claimed[1:20]])
    _, members, _ = _gallery(130)
    scattered = _claim(members)[::5]
    with statements() as counted_in_shards:
        runtime.current().claims.finish_many([_end(each) for each in scattered])

    def of_joins(all: list[str]) -> int:
        return sum("lambda_tasks_workflowjoin" in sql for sql in all)

    per_count = 1 if connection.vendor == "postgresql" else 2
    assert of_joins(counted) == of_joins(counted_together) == per_count
    assert of_joins(counted_in_shards) == (1 if connection.vendor == "sqlite" else 4) * per_count
    assert not any("SAVEPOINT" in sql for sql in counted_in_shards)


def test_nobody_finds_what_waits(transactional_db: None) -> None:
    _, _, total = _gallery(2)

    assert _claim([total]) == []
    assert TaskRecord.objects.get(id=total).status == "WAITING"


def test_a_round_cancels_the_steps_that_a_cancel_has_left(transactional_db: None) -> None:
    _gallery(2)
    Workflow.objects.update(status="CANCELLED")

    async_to_sync(runtime.current().round.run)()

    assert set(TaskRecord.objects.values_list("status", flat=True)) == {"CANCELLED"}
    assert Workflow.objects.get().ended_at is not None


def test_a_round_reads_no_steps_of_a_workflow_whose_cancel_is_over(
    transactional_db: None, statements: Callable[[], Any]
) -> None:
    run, _, _ = _gallery(2)
    run.cancel()

    with statements() as counted:
        workflow_records.finish_all_cancelled()

    assert sum("lambda_tasks_taskrecord" in sql for sql in counted) == 0


def test_a_member_that_ends_just_after_a_cancel_releases_nothing(transactional_db: None) -> None:
    _, members, total = _gallery(2)
    claimed = _claim(members)
    Workflow.objects.update(status="CANCELLED")

    runtime.current().claims.finish_many([_end(each) for each in claimed])

    assert TaskRecord.objects.get(id=total).status == "WAITING"


@pytest.mark.parametrize("how", ["cancelled", "expired", "exhausted", "lost", "stopped"])
def test_what_is_released_by_others_than_runs_is_sent_at_once(
    transactional_db: None, how: str
) -> None:
    first, other = (graphs.measure.step(image_id=number) for number in range(2))
    handler = graphs.note.step(text="handled")
    members = group([first, other], fail_fast=how == "stopped")
    with capture_tasks() as captured:
        workflow("one", members.finally_(handler)).execute_on_commit()
        end_of_record(how, first.id, other.id)
        captured.run(raise_failures=False)

    assert Effect.objects.get().name == "handled"


def end_of_record(how: str, id: uuid.UUID, other: uuid.UUID) -> None:
    """End two steps in a way of which no run hears."""
    claims, record = runtime.current().claims, TaskRecord.objects.filter(id=id)
    if how == "stopped":
        (claimed,) = _claim([id])
        claims.finish(_end(claimed, BROKEN))
        return
    TaskRecord.objects.get(id=other).cancel()
    if how == "cancelled":
        record.cancel()
    elif how == "expired":
        record.update(expires_at=timezone.now() - timedelta(days=1))
        assert _claim([id]) == []
    elif how == "exhausted":
        record.update(n_attempts=5)
        assert _claim([id]) == []
    else:
        (claimed,) = _claim([id])
        lost = ClaimedDelivery(
            delivery=Delivery(id="1", source="default", fallback_id=id),
            message=Message(
                task_name=graphs.measure.name, kwargs={}, invocation_id=id, place=claimed[1]
            ),
            task=graphs.measure,
            claim=claimed[0],
        )
        runtime.current().finisher.finish_lost(lost, BROKEN.raised, is_last=True)


def test_released_steps_are_sent_for_a_limited_time(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = graphs.measure.step(image_id=0)
    members = group(graphs.measure.step(image_id=number).after(first) for number in range(1, 6))
    with capture_tasks() as captured:
        workflow("wide", members).execute_on_commit()
        released = runtime.current().claims.finish(_end(*_claim([first.id])))
        monkeypatch.setattr(on_commit, "RELEASED_PAGE", 2)
        monkeypatch.setattr(on_commit, "SEND_RELEASED_FOR_S", -1.0)

        async_to_sync(runtime.current().enqueuer.asend_released)(released)

        assert len(captured) == 1 + 2


def test_a_group_that_was_satisfied_is_not_counted_again_after_a_retry(
    transactional_db: None,
) -> None:
    members = [graphs.measure.step(image_id=number) for number in range(2)]
    other = graphs.measure.step(image_id=9)
    total = graphs.summarize.step(sizes=group(members, need="any_outcome").results).after(other)
    with capture_tasks():
        run = workflow("gallery", total).execute_on_commit()
    claims = runtime.current().claims
    ids = [members[0].id, members[1].id, other.id]
    claims.finish_many([_end(each, BROKEN) for each in _claim(ids)])
    assert run.status() == "FAILED"
    assert run.retry_failed() == 3

    for each in _claim(ids[:2]):
        claims.finish(_end(each))

    assert TaskRecord.objects.get(id=total.id).status == "WAITING"
    (last,) = _claim([other.id])
    assert len(claims.finish(_end(last))) == 1
