"""Tasks that leave something on their connection: a transaction, or a session that is another."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections, connection, connections, transaction

from lambda_tasks import Continue, lambda_task
from tests.app.models import Effect


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def _turn_autocommit_off() -> None:
    transaction.set_autocommit(False)
    Effect.objects.create(name="lost")


def _begin_by_hand() -> None:
    execute("BEGIN")
    Effect.objects.create(name="lost")


def _enter_a_block() -> None:
    transaction.atomic().__enter__()
    Effect.objects.create(name="lost")


def _commit_by_hand() -> None:
    execute("BEGIN")
    Effect.objects.create(name="kept")
    execute("COMMIT")
    transaction.set_autocommit(False)
    Effect.objects.create(name="kept")
    transaction.commit()


LEAVING: dict[str, Callable[[], None]] = {
    "autocommit": _turn_autocommit_off,
    "begin": _begin_by_hand,
    "block": _enter_a_block,
    "commit": _commit_by_hand,
}


@lambda_task(atomic=False)
def leave(*, how: str, fails: bool = False, goes_on: bool = False) -> None:
    LEAVING[how]()
    if fails:
        raise ZeroDivisionError
    if goes_on:
        raise Continue(1)


@lambda_task(atomic=False)
async def aleave(*, how: str, fails: bool = False, goes_on: bool = False) -> None:
    await sync_to_async(LEAVING[how])()
    if fails:
        raise ZeroDivisionError
    if goes_on:
        raise Continue(1)


@lambda_task
def leave_a_block() -> None:
    _enter_a_block()


@lambda_task
async def aleave_a_block() -> None:
    await sync_to_async(_enter_a_block)()


def _write_and_execute(sql: str) -> None:
    Effect.objects.create(name="rolled back")
    execute(sql)
    Effect.objects.create(name="rolled back")


@lambda_task
def execute_in_a_block(*, sql: str) -> None:
    _write_and_execute(sql)


@lambda_task
async def aexecute_in_a_block(*, sql: str) -> None:
    await sync_to_async(_write_and_execute)(sql)


def _commit_beside_django() -> None:
    Effect.objects.create(name="committed")
    connection.connection.commit()


@lambda_task
def commit_beside_django() -> None:
    _commit_beside_django()


@lambda_task
async def acommit_beside_django() -> None:
    await sync_to_async(_commit_beside_django)()


CLOSING: dict[str, Callable[[], None]] = {
    "close_old_connections": close_old_connections,
    "connection.close": lambda: connection.close(),
    "connections.close_all": connections.close_all,
}


def _close(how: str) -> None:
    Effect.objects.create(name="before")
    CLOSING[how]()
    Effect.objects.create(name="after")
    with transaction.atomic():
        CLOSING[how]()
        Effect.objects.create(name="in a block")


@lambda_task
def close(*, how: str) -> None:
    _close(how)


@lambda_task(atomic=False)
def close_in_autocommit(*, how: str) -> None:
    _close(how)


@lambda_task
async def aclose(*, how: str) -> None:
    await sync_to_async(_close)(how)


@lambda_task(atomic=False)
async def aclose_in_autocommit(*, how: str) -> None:
    await sync_to_async(_close)(how)


@lambda_task
def close_and_fail() -> None:
    _close("connections.close_all")
    raise ZeroDivisionError


_pool = ThreadPoolExecutor(1)


def _write_in_a_pool(name: str) -> None:
    _pool.submit(Effect.objects.create, name=name).result()


def _write_in_a_loop(name: str) -> None:
    asyncio.run(Effect.objects.acreate(name=name))


def close_elsewhere() -> None:
    """Close this process's connections of the threads on which these tasks write."""
    _pool.submit(connections.close_all).result()
    asyncio.run(sync_to_async(connections.close_all)())


ELSEWHERE: dict[str, Callable[[str], None]] = {
    "a pool": _write_in_a_pool,
    "asyncio.run": _write_in_a_loop,
}


@lambda_task(on_lost="fail")
def write_elsewhere(*, where: str, name: str) -> None:
    ELSEWHERE[where](name)


@lambda_task(on_lost="fail")
async def awrite_elsewhere(*, where: str, name: str) -> None:
    await asyncio.to_thread(ELSEWHERE[where], name)


_seen: list[Any] = []
"""Every driver's connection that these tasks have had in this process."""


def _execute_each(statements: list[str]) -> int:
    """Return the number of this thread's connection in this process."""
    for sql in statements:
        execute(sql)
    connection.ensure_connection()
    raw = connection.connection
    if not any(raw is each for each in _seen):
        _seen.append(raw)
    return next(number for number, each in enumerate(_seen) if each is raw)


@lambda_task
def execute_each(*, statements: list[str]) -> int:
    return _execute_each(statements)


@lambda_task(atomic=False)
def execute_each_in_autocommit(*, statements: list[str]) -> int:
    return _execute_each(statements)


@lambda_task
async def aexecute_each(*, statements: list[str]) -> int:
    return await sync_to_async(_execute_each)(statements)


@lambda_task(atomic=False)
async def aexecute_each_in_autocommit(*, statements: list[str]) -> int:
    return await sync_to_async(_execute_each)(statements)


@lambda_task
def execute_and_fail(*, statements: list[str]) -> int:
    raise ZeroDivisionError(_execute_each(statements))


def _count_kept() -> int:
    settings.DEBUG = True  # in a worker process, which ends with the test
    Effect.objects.exists()
    return len(connection.queries_log)


@lambda_task(atomic=False)
def count_kept() -> int:
    """How many statements Django keeps of this connection, with one of the task's own."""
    return _count_kept()


@lambda_task(atomic=False)
async def acount_kept() -> int:
    return await sync_to_async(_count_kept)()
