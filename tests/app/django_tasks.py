"""Tasks of Django's own interface: each does one thing that such a task can do."""

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import django
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, transaction
from django.dispatch import receiver
from redis.exceptions import LockError

from lambda_tasks import Retry, SoftTimeLimitExceeded
from lambda_tasks.backends import task as task_with_options
from tests.app.models import Effect

if TYPE_CHECKING or django.VERSION < (6, 0):
    from django_tasks import task
    from django_tasks.signals import task_finished
else:
    from django.tasks import task
    from django.tasks.signals import task_finished


@task
def add(a: int, b: int = 2) -> int:
    return a + b


@task()
async def aadd(a: int, b: int = 2) -> int:
    await asyncio.sleep(0)
    return a + b


@task
async def aecho(value: str, *, twice: bool) -> list[str]:
    return [value] * (1 + twice)


@task_with_options(atomic=True)
def leave_effect(name: str) -> int:
    Effect.objects.create(name=name, process=os.getpid())
    return os.getpid()


@task_with_options(atomic=True)
async def aleave_effect(name: str) -> None:
    await Effect.objects.acreate(name=name, process=os.getpid())


@task_with_options(unique_by=("order_id",), expires=60)
def bill(order_id: int, cents: int = 1) -> int:
    return cents


@task_with_options(unique_by="all", unique_for=60, on_conflict="raise")
def bill_strictly(order_id: int, cents: int = 1) -> int:
    return cents


@task
def write_durably(name: str) -> bool:
    """What tasks of reusable apps do that know only Django's own backends."""
    with transaction.atomic(durable=True):
        Effect.objects.create(name=name)
    with suppress(IntegrityError):
        Effect.objects.create(id=Effect.objects.get(name=name).pk, name="taken")
    Effect.objects.create(name=f"{name} has failed")
    raise RuntimeError(name)


@task
async def atell_transaction() -> bool:
    return await sync_to_async(lambda: connection.in_atomic_block)()


@task_with_options(atomic=True)
def tell_transaction() -> bool:
    return connection.in_atomic_block


@task
async def afail(name: str) -> None:
    raise ValueError(f"failed for {name}")


@task_with_options(atomic=True)
def leave_effect_and_fail(name: str) -> None:
    Effect.objects.create(name=name)
    raise RuntimeError(f"no {name}")


@task(takes_context=True)
def tell_context(context: Any, word: str) -> list[Any]:
    result = context.task_result
    return [word, result.id, context.attempt, result.status, len(result.errors)]


@task
def exit_by_itself() -> None:
    raise SystemExit("enough")


@task
async def aexit_by_itself() -> None:
    raise SystemExit("enough")


@task
def interrupt() -> None:
    raise KeyboardInterrupt


@task
async def ainterrupt() -> None:
    raise KeyboardInterrupt


@task
def return_a_moment() -> datetime:
    return datetime(2026, 1, 1)


@task
async def areturn_a_moment() -> datetime:
    return datetime(2026, 1, 1)


@task
def return_words(*words: str, **more: str) -> list[Any]:
    return [*words, more]


@task
def pay(amount: int, token: str) -> int:
    assert token.startswith("sk-")
    return amount


@task_with_options(max_attempts=3, takes_context=True, atomic=True)
def fail_until(context: Any, attempt: int) -> Any:
    Effect.objects.create(name=f"attempt {context.attempt}")
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@task_with_options(max_attempts=3, takes_context=True)
async def afail_until(context: Any, attempt: int) -> Any:
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


def ask(error: BaseException, result: Any) -> float | None:
    """What the tests want to know of a backoff's arguments goes into the delay."""
    assert result.errors[-1].exception_class is type(error)
    match error:
        case LookupError():
            return None
        case ZeroDivisionError():
            raise ValueError("a backoff with a fault")
        case TimeoutError():
            return 3 * 3600.0
        case OverflowError():
            return float("inf")
        case FloatingPointError():
            return float("nan")
    return 100.0 * int(result.attempts)


@task_with_options(max_attempts=3, backoff=ask)
def raise_(name: str) -> None:
    known = (LookupError, TimeoutError, OSError, OverflowError, FloatingPointError)
    kinds = {each.__name__: each for each in known}
    raise kinds.get(name, ZeroDivisionError)(name)


@task_with_options(soft_timeout=0.5, hard_timeout=60)
def hear_soft_timeout() -> str:
    try:
        time.sleep(300)
    except SoftTimeLimitExceeded:
        return "heard"
    return "not heard"


@task_with_options(soft_timeout=0.5, hard_timeout=1, max_attempts=2)
async def ignore_soft_timeout() -> None:
    try:
        await asyncio.sleep(300)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(300)


@task_with_options(limit=2, limit_by=("tenant",))
def two_at_once(tenant: str, number: int) -> None:
    pass


@task_with_options(singleton=True, max_attempts=1, takes_context=True)
def alone(context: Any) -> Any:
    return context.attempt


@task_with_options(singleton=True)
async def aalone() -> None: ...


@task_with_options(max_attempts=2)
def meet_a_lock() -> None:
    raise LockError("of another kind than the singleton's")


@task_with_options(max_attempts=2, singleton=True)
def meet_a_lock_alone() -> None:
    raise LockError("of another kind than the singleton's")


@task_with_options(max_attempts=2, takes_context=True)
def ask_twice_and_fail(context: Any) -> None:
    if context.attempt <= 2:
        raise Retry
    raise ConnectionError(f"attempt {context.attempt}")


@task
def exit_and_be_heard() -> None:
    raise SystemExit("heard")


@receiver(task_finished)
def leave_what_is_heard(task_result: Any, **_: Any) -> None:
    """In whatever process it is told."""
    if task_result.task.func is exit_and_be_heard.func:
        heard = f"{task_result.status} {sys.exc_info()[1]}"
        Effect.objects.create(name=heard, process=os.getpid())


@task_with_options(max_attempts=2)
def kill_own_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
