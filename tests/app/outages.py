"""Tasks from under which something is pulled away while they run."""

import asyncio
from pathlib import Path
from typing import Literal

import psycopg
from django.db import DatabaseError, connection
from psycopg import sql

from lambda_tasks import lambda_task
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
