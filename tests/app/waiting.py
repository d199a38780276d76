"""Tasks that wait for the database, or in a thread, longer than they may."""

import asyncio
import threading
import time
from contextlib import suppress
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import connection, transaction

from lambda_tasks import SoftTimeLimitExceeded, lambda_task
from tests.app.models import Effect, Seat

FOR_EVER = {
    "postgresql": "SELECT pg_sleep(300)",
    "mysql": "SELECT SLEEP(300)",
    "sqlite": "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c)"
    " SELECT count(*) FROM c",
}

released = threading.Event()
"""What a task waits for that hangs in a thread of this process."""


def wait_in_a_statement() -> None:
    with connection.cursor() as cursor:
        cursor.execute(FOR_EVER[connection.vendor])
        cursor.fetchall()


def wait_under_a_savepoint() -> None:
    with transaction.atomic():
        wait_in_a_statement()


@lambda_task(soft_timeout=1, hard_timeout=2)
async def sleep_in_statements() -> None:
    while True:
        with suppress(SoftTimeLimitExceeded):
            await sync_to_async(wait_under_a_savepoint)()


@lambda_task(hard_timeout=2)
async def sleep_in_a_statement() -> None:
    await sync_to_async(wait_under_a_savepoint)()


@lambda_task(hard_timeout=2)
def sync_sleep_in_a_statement() -> None:
    wait_under_a_savepoint()


@lambda_task(hard_timeout=2)
async def sleep_in_python() -> None:
    await asyncio.sleep(300)


@lambda_task(hard_timeout=2)
def sync_sleep_in_python() -> None:
    time.sleep(300)


@lambda_task(soft_timeout=1, hard_timeout=2)
def sync_sleep_in_statements() -> None:
    while True:
        with suppress(SoftTimeLimitExceeded):
            wait_under_a_savepoint()


def take_the_seat() -> None:
    with transaction.atomic():
        Seat.objects.filter(row=1, number=1).update(taken_by="the task")


@lambda_task(hard_timeout=2)
def sync_take_a_locked_seat() -> None:
    take_the_seat()


@lambda_task(soft_timeout=1, hard_timeout=2)
async def take_a_locked_seat() -> None:
    while True:
        with suppress(SoftTimeLimitExceeded):
            await sync_to_async(take_the_seat)()


@lambda_task(soft_timeout=2, hard_timeout=60, atomic=False)
async def clean_up_after_a_statement() -> str:
    try:
        await sync_to_async(wait_in_a_statement)()
    except SoftTimeLimitExceeded:
        await Effect.objects.acreate(name="cleaned up")
        return "cleaned up"
    return "not interrupted"


@lambda_task(soft_timeout=2, hard_timeout=60, atomic=False)
def sync_clean_up_after_a_statement() -> str:
    try:
        wait_in_a_statement()
    except SoftTimeLimitExceeded:
        Effect.objects.create(name="cleaned up")
        return "cleaned up"
    return "not interrupted"


@lambda_task(soft_timeout=2, hard_timeout=60)
async def clean_up_after_a_savepoint() -> str:
    try:
        await sync_to_async(wait_under_a_savepoint)()
    except SoftTimeLimitExceeded:
        await Effect.objects.acreate(name="cleaned up")
        return "cleaned up"
    return "not interrupted"


@lambda_task(soft_timeout=2, hard_timeout=60)
def sync_clean_up_after_a_savepoint() -> str:
    try:
        wait_under_a_savepoint()
    except SoftTimeLimitExceeded:
        Effect.objects.create(name="cleaned up")
        return "cleaned up"
    return "not interrupted"


@lambda_task(soft_timeout=1.5, hard_timeout=2)
async def commit_and_wait() -> str:
    await Effect.objects.acreate(name="committed")
    await sync_to_async(transaction.on_commit)(wait_in_a_statement)
    return "committed"


@lambda_task(soft_timeout=1.5, hard_timeout=2)
async def commit_and_hang() -> str:
    await Effect.objects.acreate(name="committed")
    await sync_to_async(transaction.on_commit)(lambda: released.wait(300))
    return "committed"


@lambda_task(soft_timeout=1.5, hard_timeout=2)
def sync_commit_and_wait() -> str:
    Effect.objects.create(name="committed")
    transaction.on_commit(wait_in_a_statement)
    return "committed"


@lambda_task(soft_timeout=1.5, hard_timeout=2)
def sync_commit_and_hang() -> str:
    Effect.objects.create(name="committed")
    transaction.on_commit(lambda: time.sleep(300))
    return "committed"


@lambda_task(soft_timeout=1, hard_timeout=2)
async def hang_in_its_thread() -> None:
    await Effect.objects.acreate(name="rolled back")
    while True:
        with suppress(SoftTimeLimitExceeded):
            await sync_to_async(released.wait)(300)


@lambda_task(soft_timeout=200, hard_timeout=290)
async def wait_for_long() -> None:
    await sync_to_async(wait_in_a_statement)()


@lambda_task(soft_timeout=4, hard_timeout=5)
async def ask_again_and_again(*, there: Path) -> None:
    while True:
        await Effect.objects.acount()
        there.touch()
        await asyncio.sleep(0.05)


@lambda_task(soft_timeout=4, hard_timeout=5)
def sync_ask_again_and_again(*, there: Path) -> None:
    while True:
        Effect.objects.count()
        there.touch()
        time.sleep(0.05)


def ask_and_hang() -> None:
    Effect.objects.count()
    released.wait(300)
    connection.close()


@lambda_task(hard_timeout=2)
async def hang_in_a_thread_beside() -> None:
    await Effect.objects.acreate(name="rolled back")
    await asyncio.to_thread(ask_and_hang)


@lambda_task(soft_timeout=200, hard_timeout=290)
async def hang_in_the_thread_of_the_lane() -> None:
    await sync_to_async(time.sleep)(300)


@lambda_task(soft_timeout=200, hard_timeout=290)
async def hang_in_the_default_executor() -> None:
    await asyncio.to_thread(time.sleep, 300)


def _write_and_wait(there: Path, gate: Path) -> None:
    Effect.objects.create(name="written")
    there.touch()
    while not gate.exists():
        time.sleep(0.02)


@lambda_task(soft_timeout=280, hard_timeout=290)
def write_and_wait(*, there: Path, gate: Path) -> None:
    _write_and_wait(there, gate)


@lambda_task(soft_timeout=280, hard_timeout=290)
async def awrite_and_wait(*, there: Path, gate: Path) -> None:
    await sync_to_async(_write_and_wait)(there, gate)


def _take_two_seats(there: Path) -> None:
    Seat.objects.filter(number=1).update(taken_by="the task")
    there.touch()
    Seat.objects.filter(number=2).update(taken_by="the task")


@lambda_task
def take_two_seats(*, there: Path) -> None:
    _take_two_seats(there)


@lambda_task
async def atake_two_seats(*, there: Path) -> None:
    await sync_to_async(_take_two_seats)(there)


def _be_impatient() -> None:
    # Beside Django, where nobody sees that the session has changed, and closes the connection.
    connection.ensure_connection()
    connection.connection.execute("PRAGMA busy_timeout = 50")


@lambda_task(atomic=False)
async def let_its_connection_be_impatient() -> None:
    """With SQLite's one writer; the tasks that follow in its lane have the same connection."""
    await sync_to_async(_be_impatient)()


@lambda_task
async def await_and_write(*, there: Path, gate: Path) -> None:
    there.touch()
    while not await asyncio.to_thread(gate.exists):
        await asyncio.sleep(0.02)
    await Effect.objects.acreate(name="written")
