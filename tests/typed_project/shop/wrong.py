"""Wrong uses of the tasks: each line is an error, of the kind that it names."""

from typing import Any

from lambda_tasks import TaskContext, lambda_task
from lambda_tasks.backends import task
from lambda_tasks.models import TaskRecord
from shop import tasks


def call() -> None:
    tasks.add(a=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.resume(pages=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add.execute_on_commit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add.execute_on_commit(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add.execute_on_commit(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.execute_on_commit(a=1, c=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.name_of.execute_on_commit()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    tasks.name_of.execute_on_commit(1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    tasks.name_of.execute_on_commit(id="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    tasks.name_of.execute_on_commit(id=1, c=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    tasks.anything.execute_on_commit(data=[])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    tasks.resume.execute_on_commit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.resume.execute_on_commit(page="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.resume.execute_on_commit(TaskContext(task_name=""), page=1)  # type: ignore[arg-type, misc]  # pyright: ignore[reportCallIssue]
    tasks.add.execute_many_on_commit({"a": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    tasks.add.execute_many_on_commit([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    tasks.add.delay(a=1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    tasks.add.apply_async(kwargs={"a": 1})  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def call_in_async_code() -> None:
    await tasks.add.aexecute_on_commit(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await tasks.name_of.aexecute_on_commit(id="1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await tasks.name_of.aexecute_on_commit()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await tasks.name_of.aexecute_many_on_commit([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await tasks.add(a=1)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]


def use() -> None:
    tasks.add.using(delays=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add.using(delay="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.using(run_after=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.using(queue=["a"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.using(unique_by="a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.using(on_conflict="join")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.using(expires="1h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.using(delay=3).execute_on_commit(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.serialize(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def read_results(record: TaskRecord, context: TaskContext) -> None:
    text: str = tasks.add.execute_on_commit(a=1).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    number: int = tasks.name_of.execute_on_commit(id=1).result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    tasks.add.execute_on_commit(a=1).result(timeout="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(tasks.add.execute_on_commit(a=1).record().status)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    number = record.status  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    context.progress("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    context.save()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    print(text, number)


def declare(function: Any) -> None:
    lambda_task(queu="default")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    lambda_task(queue=["a"])  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    lambda_task(max_retries="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    lambda_task(on_lost="again")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    lambda_task(takes_context=True)(tasks.add)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    task(max_attempt=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    task(backoff=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def call_by_django() -> None:
    tasks.print_order.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.print_order.enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.print_later.enqueue(id="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.print_page.enqueue(pages=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.charge_by_django.enqueue(cents="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.print_order.enqueue_many(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
