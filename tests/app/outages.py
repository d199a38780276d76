"""Tasks from under which something is pulled away while they run."""

import asyncio
import time
from pathlib import Path
from typing import Any, Literal

import psycopg
from asgiref.sync import sync_to_async
from django.db import DatabaseError, OperationalError, connection
from psycopg import sql

from lambda_tasks import TaskContext, lambda_task
from lambda_tasks.backends import task as django_task
from tests.app.models import Effect


def cut_connections(*, close_database: bool = False) -> None:
    """End every connection to the tests' database, and perhaps let nobody in again."""
    with administrator() as server:
        name = connection.settings_dict["NAME"]
        if close_database:
            _allow_connections(server, name, "false")
        # Each waits for its end: its client can tell from then on.
        server.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s",
            [name],
        )


def open_database() -> None:
    with administrator() as server:
        name = connection.settings_dict["NAME"]
        _allow_connections(server, name, "true")


def _allow_connections(
    server: "psycopg.Connection[tuple[object, ...]]", name: str, value: Literal["true", "false"]
) -> None:
    statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    server.execute(statement.format(sql.Identifier(name), sql.SQL(value)))


def administrator(dbname: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
    parameters = connection.get_connection_params()
    chosen = {key: parameters[key] for key in ("host", "port", "user") if key in parameters}
    return psycopg.connect(dbname=dbname, autocommit=True, **chosen)


@lambda_task(durable=False)
def cut_and_write(*, name: str) -> None:
    Effect.objects.create(name=f"before {name}")
    cut_connections()
    Effect.objects.create(name=name)


@lambda_task(durable=False)
async def acut_and_write(*, name: str) -> None:
    await Effect.objects.acreate(name=f"before {name}")
    await asyncio.to_thread(cut_connections)
    await Effect.objects.acreate(name=name)


@lambda_task(durable=False)
def cut_and_return(*, name: str) -> None:
    Effect.objects.create(name=name)
    cut_connections()


@lambda_task(durable=False)
async def acut_and_return(*, name: str) -> None:
    await Effect.objects.acreate(name=name)
    await asyncio.to_thread(cut_connections)


@lambda_task(durable=False)
def close_database_once(*, name: str) -> None:
    is_first = not Effect.objects.filter(name="first").exists()
    Effect.objects.create(name=name)
    if is_first:
        cut_connections(close_database=True)


@lambda_task(durable=False, singleton=True, retry_singleton=False)
async def aalone_until(*, name: str, gate: Path) -> None:
    while not await asyncio.to_thread(gate.exists):
        await asyncio.sleep(0.02)
    await Effect.objects.acreate(name=name)


@lambda_task
async def await_a_cut() -> None:
    await asyncio.to_thread(cut_connections)


@lambda_task
async def awrite_through_an_outage() -> None:
    await asyncio.to_thread(cut_connections, close_database=True)
    try:
        await Effect.objects.acreate(name="in the outage")
    except DatabaseError:
        await asyncio.to_thread(open_database)
    await Effect.objects.acreate(name="after the outage")
    raise ZeroDivisionError


def _write(names: list[str]) -> int:
    count = 0
    while names:  # and so changes its arguments
        Effect.objects.create(name=names.pop())
        count += 1
    return count


async def _awrite(names: list[str]) -> int:
    return await sync_to_async(_write)(names)


@lambda_task
def write(*, names: Any) -> int:
    return _write(names)


@lambda_task
async def awrite(*, names: Any) -> int:
    return await _awrite(names)


@lambda_task
async def awrite_in_a_group(*, names: Any) -> int:
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(_awrite(names))
    return writing.result()


@lambda_task(on_lost="fail")
def write_once(*, names: Any) -> int:
    return _write(names)


@lambda_task(atomic=False)
def write_in_autocommit(*, names: Any) -> int:
    return _write(names)


@django_task(atomic=True)
def djangos_write(names: list[str]) -> int:
    return _write(names)


@django_task(atomic=True)
async def djangos_awrite(names: list[str]) -> int:
    return await _awrite(names)


def _meet(cause: str) -> None:
    if cause == "cut":
        cut_connections()
    Effect.objects.create(name="x")


@lambda_task(retry_on=(OperationalError,))
def meet_with_retry_on(*, cause: str) -> None:
    _meet(cause)


@lambda_task(ignore_errors=(DatabaseError,))
def meet_with_ignore_errors(*, cause: str) -> None:
    _meet(cause)


@lambda_task
def meet_with_own(*, cause: str) -> None:
    try:
        _meet(cause)
    except DatabaseError as error:
        raise ZeroDivisionError from error


@lambda_task(soft_timeout=5, hard_timeout=10)
def sleep_and_write(*, seconds: float) -> None:
    time.sleep(seconds)
    Effect.objects.create(name="x")


@lambda_task(takes_context=True)
def cancel_and_write(context: TaskContext) -> None:
    with administrator(dbname=connection.settings_dict["NAME"]) as beside:
        beside.execute(
            "UPDATE lambda_tasks_taskrecord SET status = 'CANCELLED' WHERE id = %s",
            [context.invocation_id],
        )
    Effect.objects.create(name="x")


def _cut_once(name: str) -> None:
    with administrator(dbname=connection.settings_dict["NAME"]) as beside:
        known = beside.execute("SELECT 1 FROM app_effect WHERE name = 'first'").fetchone()
        beside.execute("INSERT INTO app_effect (name, process) VALUES ('first', 0)")
    if known is None:
        Effect.objects.create(name=f"before {name}")
        cut_connections()
    Effect.objects.create(name=name)


@lambda_task
def cut_once_and_write(*, name: str) -> None:
    _cut_once(name)


@lambda_task
async def acut_once_and_write(*, name: str) -> None:
    await sync_to_async(_cut_once)(name)


@lambda_task(on_lost="fail")
def cut_and_write_once(*, name: str) -> None:
    Effect.objects.create(name=f"before {name}")
    cut_connections()
    Effect.objects.create(name=name)


@lambda_task(on_lost="fail")
async def acut_and_write_once(*, name: str) -> None:
    await Effect.objects.acreate(name=f"before {name}")
    await asyncio.to_thread(cut_connections)
    await Effect.objects.acreate(name=name)


def _hurry() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '3s'")


@lambda_task
def write_in_haste(*, name: str) -> None:
    Effect.objects.create(name=name)
    _hurry()


@lambda_task
async def awrite_in_haste(*, name: str) -> None:
    await Effect.objects.acreate(name=name)
    await sync_to_async(_hurry)()


@lambda_task(takes_context=True)
def save_in_haste(context: TaskContext, *, name: str) -> None:
    Effect.objects.create(name=name)
    _hurry()
    context.save({"name": name})


@lambda_task(takes_context=True)
async def asave_in_haste(context: TaskContext, *, name: str) -> None:
    await Effect.objects.acreate(name=name)
    await sync_to_async(_hurry)()
    await context.asave({"name": name})


@lambda_task
def sleep_in_haste() -> None:
    _hurry()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(60)")


@lambda_task(takes_context=True)
def meet_a_reader_once(context: TaskContext, *, name: str) -> None:
    with connection.cursor() as cursor:
        if context.attempt == 1:
            cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            cursor.execute("SET TRANSACTION READ ONLY")
    Effect.objects.create(name=name)
