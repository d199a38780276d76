"""Right uses of the tasks: no checker has a word to say about them."""

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from lambda_tasks import Invocation
from lambda_tasks.models import SQSLambdaTask, TaskRecord
from shop import tasks
from shop.tasks import Receipt


def call() -> None:
    assert_type(tasks.add(a=1), int)
    assert_type(tasks.resume(page=1), int)
    assert_type(tasks.add.execute_on_commit(a=1), Invocation[int])
    assert_type(tasks.add.execute_many_on_commit([{"a": 1}, {"a": 2}]), list[Invocation[int]])
    assert_type(tasks.name_of.execute_on_commit(id=1), Invocation[str])
    assert_type(tasks.name_of.execute_many_on_commit([{"id": 1}]), list[Invocation[str]])
    assert_type(tasks.charge.execute_on_commit(cents=3), Invocation[Receipt])
    assert_type(tasks.resume.execute_on_commit(page=1), Invocation[int])
    assert_type(tasks.resume_later.execute_on_commit(), Invocation[None])
    assert_type(tasks.anything.execute_on_commit(data={}), Invocation[Any])
    assert_type(tasks.anything_later.execute_on_commit(data=[1, ""]), Invocation[dict[str, Any]])


async def call_in_async_code() -> None:
    assert_type(await tasks.name_of(id=1), str)
    assert_type(await tasks.resume_later(), None)
    assert_type(await tasks.add.aexecute_on_commit(a=1, b=2), Invocation[int])
    assert_type(await tasks.name_of.aexecute_on_commit(id=1), Invocation[str])
    assert_type(await tasks.name_of.aexecute_many_on_commit([{"id": 1}]), list[Invocation[str]])
    assert_type(await tasks.resume_later.aexecute_on_commit(page=2), Invocation[None])
    invocation = await tasks.anything_later.aexecute_on_commit(data=[])
    assert_type(await invocation.aresult(timeout=3), dict[str, Any])
    assert_type(await invocation.arecord(), TaskRecord | None)


def use() -> None:
    later = tasks.add.using(delay=timedelta(seconds=3), queue="other", priority=3)
    assert_type(later.execute_on_commit(a=1, b=3), Invocation[int])
    assert_type(tasks.name_of.using(delay=30).execute_on_commit(id=1), Invocation[str])
    tasks.resume.using(run_after=timedelta(days=1), using="other").execute_on_commit(page=1)
    tasks.add.using(headers={"language": "de", "tenant": 7}).execute_on_commit(a=1)
    tasks.add.using(run_after=datetime.now(UTC), group_key="tenant-7").execute_on_commit(a=1)
    tasks.add.using(unique_by=("a",), on_conflict="raise", expires=60).execute_on_commit(a=1)
    tasks.add.using(unique_by="all", unique_while="queued").execute_on_commit(a=1)
    assert_type(tasks.add.using(expires=datetime.now(UTC)).execute_on_commit(a=1).created, bool)
    payload = tasks.add.serialize(a=1)
    assert_type(payload, dict[str, Any])
    SQSLambdaTask.model_validate(payload).execute_on_commit()


def read_results() -> None:
    invocation = tasks.charge.execute_on_commit(cents=3)
    assert_type(invocation.id, UUID)
    assert_type(invocation.result(timeout=60).cents, int)
    assert_type(tasks.name_of.execute_on_commit(id=1).result(), str)
    assert_type(Invocation(invocation.id).result(), Any)
    assert_type(Invocation[str](invocation.id).result(), str)
    kept: Invocation[Receipt] = invocation
    any_of_them: list[Invocation] = [kept, tasks.add.execute_on_commit(a=1)]
    assert len(any_of_them) == 2


def read_record(record: TaskRecord) -> None:
    assert_type(record.id, UUID)
    assert_type(record.status, str)
    assert_type(record.result, Any)
    assert_type(record.traceback, str | None)
    assert_type(record.n_retries, int)
    assert_type(record.end_time, datetime | None)
    assert_type(record.duration, timedelta | None)
    assert_type(record.cancel(), bool)
    assert record.status == TaskRecord.TaskStatus.SUCCESS
    assert record.status in (record.TaskStatus.FAILED, TaskRecord.TaskStatus.CANCELLED.value)
    found = tasks.add.execute_on_commit(a=1).record()
    assert found is not None
    assert_type(found.status, str)


def query() -> None:
    failed = TaskRecord.objects.filter(status=TaskRecord.TaskStatus.FAILED)
    for record in failed.with_progress().order_by("end_time"):
        print(record.id, record.progress)
    print(TaskRecord.objects.with_progress().get(id=UUID(int=1)).state, failed.cancel())


def call_by_django() -> None:
    assert_type(tasks.print_order.enqueue(1, copies=2).return_value, int | None)
    assert_type(tasks.print_later.enqueue(id=1).return_value, str | None)
    assert_type(tasks.print_page.enqueue(page=1).id, str)
    assert_type(tasks.charge_by_django.enqueue(cents=1).return_value, Receipt | None)
    assert_type(tasks.name_by_django.enqueue(id=1).return_value, str | None)
    tasks.print_order.using(priority=3, run_after=datetime.now(UTC)).enqueue(1)
    tasks.print_order.enqueue_many([{"id": 1}, (2, 3)])


async def call_by_django_in_async_code() -> None:
    assert_type((await tasks.print_later.aenqueue(1)).return_value, str | None)
    await tasks.print_order.aenqueue_many([{"id": 1}])
