"""Right uses of workflows: no checker has a word to say about them."""

from typing import assert_type
from uuid import UUID

from lambda_tasks.workflows import Group, Step, WorkflowStatus, group, step, workflow
from shop import tasks


def define() -> None:
    named = tasks.name_of.step(id=1)
    assert_type(named, Step[str])
    assert_type(named.result, str)
    number = tasks.add.step(a=1)
    assert_type(number, Step[int])
    assert_type(tasks.add.step(a=number.result, b=2).after(named), Step[int])
    assert_type(tasks.add.using(queue="other").step(a=1), Step[int])
    assert_type(tasks.resume.step(page=number.result), Step[int])
    printed = step(tasks.print_order, 1, copies=number.result)
    assert_type(tasks.add.step(a=1).after(printed), Step[int])
    numbers = group((tasks.add.step(a=each) for each in range(3)), need=0.95, fail_fast=True)
    assert_type(numbers, Group[int])
    assert_type(tasks.total.step(sizes=numbers.results, title=named.result), Step[int])
    assert_type(tasks.total_later.step(sizes=numbers.results), Step[str])
    last = number.on_failure(named).finally_(tasks.name_of.step(id=2))
    assert_type(last, Step[int])


def call() -> None:
    run = workflow("order", tasks.name_of.step(id=1)).execute_on_commit()
    assert_type(run.id, UUID)
    assert_type(run.status(), WorkflowStatus)
    assert_type(run.progress().done + run.progress().total + run.progress().failed, int)
    assert_type(run.cancel(), bool)
    run.retry_failed()


async def call_in_async_code() -> None:
    run = await workflow("order", tasks.name_of.step(id=1)).aexecute_on_commit()
    assert_type(await run.astatus(), WorkflowStatus)
    assert_type((await run.aprogress()).done, int)
    assert_type(await run.acancel(), bool)
    await run.aretry_failed()
