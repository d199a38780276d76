"""The tasks of the tests: each does one thing that a task can do."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pydantic
from asgiref.sync import sync_to_async
from django.db import connections, transaction

from lambda_tasks import (
    Continue,
    Retry,
    SoftTimeLimitExceeded,
    TaskContext,
    lambda_task,
    task_logger,
)
from lambda_tasks.models import LimitPlace, TaskRecord
from lambda_tasks.records.clock import Now
from tests.app.models import Effect, Seat

not_a_task = {"a name": "that can be imported"}


class RateLimited(Exception):
    pass


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: float


class Order(pydantic.BaseModel):
    id: int
    lines: list[Point]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@lambda_task
def add(*, a: int, b: int = 2) -> int:
    return a + b


@lambda_task
def call_another_badly() -> int:
    return add(a="one")  # type: ignore[arg-type]


@lambda_task(on_lost="fail")
def add_once(*, a: int, b: int = 2) -> int:
    return a + b


@lambda_task(durable=True)
def add_durable(*, a: int, b: int = 2) -> int:
    return a + b


@lambda_task(durable=False)
def add_direct(*, a: int, b: int = 2) -> int:
    return a + b


@lambda_task
async def afail_beside_others() -> None:
    async def write_on_and_on() -> None:
        for _ in range(50):
            await Effect.objects.acreate(name="of a task that failed")

    async def fail() -> None:
        await asyncio.sleep(0.005)
        raise ZeroDivisionError

    await asyncio.gather(write_on_and_on(), write_on_and_on(), fail())


_left_running: set["asyncio.Task[Effect]"] = set()


@lambda_task
async def afail_beside_a_call() -> None:
    call = asyncio.create_task(Effect.objects.acreate(name="of a task that has ended"))
    _left_running.add(call)
    call.add_done_callback(_left_running.discard)
    call.add_done_callback(asyncio.Task.exception)
    await asyncio.sleep(0)  # the call is on its way to the thread
    raise ZeroDivisionError


@lambda_task
async def await_a_little() -> None:
    await asyncio.sleep(0.01)


@lambda_task
async def areturn_nested(*, depth: int) -> Any:
    return nested(depth)


@lambda_task
def take_seat(*, row: int, number: int) -> None:
    Seat.objects.update_or_create(row=row, number=number, defaults={"taken_by": str(uuid4())})


@lambda_task
async def acall_another(*, a: int) -> None:
    await aadd.aexecute_on_commit(a=a)


@lambda_task
def call_itself() -> None:
    call_itself.execute_on_commit()


@lambda_task
async def aadd(*, a: int, b: int = 2) -> int:
    await asyncio.sleep(0)
    return a + b


@lambda_task(durable=False)
async def aadd_direct(*, a: int, b: int = 2) -> int:
    return a + b


@lambda_task
def leave_effect(*, name: str) -> int:
    effect = Effect.objects.create(name=name, process=os.getpid())
    return effect.pk


@lambda_task(durable=False)
def leave_effect_direct(*, name: str) -> None:
    Effect.objects.create(name=name, process=os.getpid())


@lambda_task
async def aleave_effect(*, name: str) -> int:
    effect = await Effect.objects.acreate(name=name, process=os.getpid())
    return effect.pk


@lambda_task
def größe(*, name: str) -> int:  # noqa: PLC2401 - a name that Python takes, and SQS does not
    return len(name)


@lambda_task
def typed(
    *,
    moment: datetime,
    day: date,
    amount: Decimal,
    key: UUID,
    colour: Colour,
    path: Path,
    point: Point,
    order: Order,
    anything: Any = None,
) -> list[str]:
    values = [moment, day, amount, key, colour, path, point, order, anything]
    return [type(value).__name__ for value in values]


@lambda_task
def echo(*, value: Any) -> Any:
    return value


@lambda_task(keep_arguments=False, retry_on=(ConnectionError,))
async def forget(*, email: str, error: str = "") -> None:
    if error == "retry":
        raise ConnectionError
    if error:
        raise ValueError


@lambda_task
def write_and_fail(*, name: str) -> None:
    Effect.objects.create(name=name)
    raise ValueError(f"failed after writing {name}")


@lambda_task(takes_context=True)
async def aend(context: TaskContext, *, cancelled: bool) -> None:
    """Cancelled meanwhile or not, which is said on a connection beside the task's own."""

    def cancel() -> None:
        TaskRecord.objects.get(id=context.invocation_id).cancel()
        connections.close_all()

    if cancelled:
        await asyncio.to_thread(cancel)


@lambda_task
async def awrite_and_fail(*, name: str) -> None:
    await Effect.objects.acreate(name=name)
    raise ValueError(f"failed after writing {name}")


@lambda_task
async def araise(*, text: list[int]) -> None:
    """The characters' numbers, as a message can't hold each of them."""
    raise ValueError("".join(map(chr, text)))


@lambda_task
def raise_here(*, text: list[int]) -> None:
    raise ValueError("".join(map(chr, text)))


@lambda_task(atomic=False)
def write_and_fail_without_a_transaction(*, name: str) -> None:
    Effect.objects.create(name=name)
    raise ValueError("the write stays")


@lambda_task(ignore_errors=(KeyError,))
def ignored(*, name: str) -> None:
    Effect.objects.create(name=name)
    raise KeyError(name)


@lambda_task(retry_on=(RateLimited,), retry_delay=30, max_retries=1)
def limited(*, name: str) -> None:
    Effect.objects.create(name=name)
    raise RateLimited(name)


@lambda_task(retry_on=(RateLimited,), max_retries=0)
def limited_to_one_run() -> None:
    raise RateLimited


@lambda_task
async def ask_for_a_retry(*, name: str) -> None:
    raise Retry(name, delay=7)


@lambda_task
async def ask_for_a_retry_in_a_group(*, delays: list[float | None], fails: bool = False) -> None:
    async def ask(delay: float | None) -> None:
        raise Retry("from a group", delay=delay)

    async def fail() -> None:
        raise ZeroDivisionError

    async with asyncio.TaskGroup() as group:
        for delay in delays:
            group.create_task(ask(delay))
        if fails:
            group.create_task(fail())


@lambda_task
async def go_on_in_a_group() -> None:
    async def go_on() -> None:
        raise Continue(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(go_on())


@lambda_task
def return_what_is_no_json(*, name: str) -> Any:
    Effect.objects.create(name=name)
    return object()


@lambda_task
def process_id(*, pause_s: float = 0.0) -> int:
    time.sleep(pause_s)
    return os.getpid()


@lambda_task
async def wait(*, seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@lambda_task
def spin(*, rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total += number * number
    return total


@lambda_task(soft_timeout=0.5, hard_timeout=60)
def sleep_and_clean_up(*, name: str) -> str:
    try:
        time.sleep(300)
    except SoftTimeLimitExceeded:
        return f"{name} cleaned up"
    return "slept"


@lambda_task(soft_timeout=0.5, hard_timeout=60)
async def asleep_and_clean_up(*, name: str) -> str:
    try:
        await asyncio.sleep(300)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
        return f"{name} cleaned up"
    return "slept"


@lambda_task(soft_timeout=0.5, hard_timeout=1)
def ignore_the_soft_timeout(*, name: str) -> None:
    while True:
        try:
            time.sleep(300)
        except Exception:
            task_logger.info("went on")


@lambda_task(soft_timeout=0.5, hard_timeout=1)
async def aignore_the_soft_timeout(*, name: str) -> None:
    while True:
        try:
            await asyncio.sleep(300)
        except Exception:
            task_logger.info("went on")


@lambda_task(soft_timeout=0.5, hard_timeout=20)
def tell_time_left_after_the_soft_timeout() -> float | None:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return _until_the_alarm()
    return None


@lambda_task
def leave_time_to_the_alarm_at_the_commit() -> None:
    transaction.on_commit(lambda: _leave(f"{_until_the_alarm()} s"))


def _until_the_alarm() -> float:
    return signal.getitimer(signal.ITIMER_REAL)[0]


@lambda_task
def exit_at_once(*, code: int) -> None:
    os._exit(code)


@lambda_task
async def exit_politely() -> None:
    raise SystemExit(1)


@lambda_task(takes_context=True)
def tell_context(context: TaskContext) -> dict[str, Any]:
    return {
        "id": str(context.invocation_id),
        "attempt": context.attempt,
        "remaining": context.remaining(),
        "metadata": dict(context.metadata),
    }


@lambda_task(hard_timeout=100, takes_context=True)
async def tell_time_left(context: TaskContext) -> float:
    return context.remaining()


@lambda_task(soft_timeout=490, hard_timeout=500, takes_context=True)
async def tell_time_left_until_shortly_before_the_hard_timeout(context: TaskContext) -> float:
    return context.remaining()


@lambda_task(takes_context=True)
def tell_lease(context: TaskContext) -> float:
    record = TaskRecord.objects.get(id=context.invocation_id)
    assert record.lease_until is not None
    assert record.start_time is not None
    return (record.lease_until - record.start_time).total_seconds()


@lambda_task(
    singleton=True,
    singleton_by=("key",),
    retry_singleton=False,
    atomic=False,  # SQLite would not let two transactions run side by side
)
def alone(*, key: str, pause_s: float) -> str:
    time.sleep(pause_s)
    return key


@lambda_task(singleton=True, singleton_by=("key",), retry_singleton=False)
async def aalone(*, key: str) -> str:
    return key


@lambda_task(singleton=True, retry_singleton=False)
def leave_locks_at_the_commit() -> None:
    transaction.on_commit(lambda: _leave(f"{LimitPlace.objects.count()} held"))


@lambda_task(singleton=True, retry_singleton=False)
async def afail_alone() -> None:
    raise ZeroDivisionError


def _leave(name: str) -> None:
    Effect.objects.create(name=name)


@lambda_task
def enqueue_another(*, name: str, fail: bool = False) -> None:
    with transaction.atomic():
        leave_effect.execute_on_commit(name=name)
    if fail:
        raise ValueError("rolls back what it enqueued")


@lambda_task
async def aenqueue_another(*, name: str, fail: bool = False) -> None:
    await aleave_effect.aexecute_on_commit(name=name)
    if fail:
        raise ValueError("rolls back what it enqueued")


@lambda_task(aliases=("gone.module.old_name",))
def renamed() -> str:
    return "still found"


@lambda_task
async def give_up_the_transaction() -> None:
    await sync_to_async(transaction.set_rollback)(True)


@lambda_task
async def log_a_line(*, text: str) -> None:
    task_logger.info(text)


@lambda_task(takes_context=True)
def lose_own_claim(context: TaskContext) -> None:
    TaskRecord.objects.filter(id=context.invocation_id).update(claim_token=uuid4())


def _look_and_lease(id: UUID) -> dict[str, float]:
    """Seconds by the database's clock until somebody must look at a run, and its lease ends."""
    times = TaskRecord.objects.values_list("look_at", "lease_until", Now()).get(id=id)
    look_at, lease_until, now = (each.timestamp() for each in times if each is not None)
    return {"look": look_at - now, "lease": lease_until - now}


@lambda_task(takes_context=True)
def tell_own_look(context: TaskContext) -> dict[str, float]:
    return _look_and_lease(context.invocation_id)


@lambda_task(durable=False, takes_context=True)
def tell_own_look_direct(context: TaskContext) -> dict[str, float]:
    return _look_and_lease(context.invocation_id)


@lambda_task(takes_context=True)
def tell_schedule(context: TaskContext) -> str:
    assert context.scheduled_for is not None
    return context.scheduled_for.isoformat()
