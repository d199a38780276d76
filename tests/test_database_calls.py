"""The library's own calls to the database, made from coroutines by a thread."""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import pytest
from django.db import DatabaseError, connection

from lambda_tasks.database_calls import call_database
from lambda_tasks.entrypoints.ending import run_process
from lambda_tasks.execution import interruptible_thread
from lambda_tasks.execution.interruptible_thread import DatabaseCalls, InterruptibleThread
from lambda_tasks.handler import LambdaHandler

said: ContextVar[str] = ContextVar("said")

on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="it can sleep")


def with_a_thread(scene: Callable[[InterruptibleThread], Awaitable[None]]) -> None:
    async def run() -> None:
        thread = InterruptibleThread("database")
        async with DatabaseCalls(thread):
            await asyncio.wait_for(scene(thread), 60)
        thread.shutdown(wait=False)

    asyncio.run(run())


def test_calls_are_made_on_the_thread_of_their_context_with_its_variables() -> None:
    async def scene(thread: InterruptibleThread) -> None:
        said.set("hello")

        assert await call_database(threading.get_ident) != threading.get_ident()
        assert await call_database(threading.get_ident) == await call_database(threading.get_ident)
        assert await asyncio.create_task(call_database(said.get)) == "hello"
        with pytest.raises(ZeroDivisionError):
            await call_database(lambda: 1 // 0)

    with_a_thread(scene)


def test_after_the_body_its_thread_makes_no_more_calls() -> None:
    async def run() -> None:
        thread = InterruptibleThread("database")
        async with DatabaseCalls(thread):
            before = await call_database(threading.current_thread)
        thread.shutdown(wait=False)

        # Not by its ident, which a new thread may have when this one has ended.
        assert await call_database(threading.current_thread) is not before

    asyncio.run(run())


def test_a_call_that_nobody_waits_for_any_more_is_not_begun() -> None:
    made: list[str] = []
    go_on = threading.Event()

    async def scene(thread: InterruptibleThread) -> None:
        busy = asyncio.create_task(call_database(go_on.wait, 60))
        cancelled = asyncio.create_task(call_database(made.append, "cancelled"))
        await asyncio.sleep(0)  # both are in the thread's line

        cancelled.cancel()
        await asyncio.wait([cancelled])
        go_on.set()

        await call_database(made.append, "after it")
        await busy

    with_a_thread(scene)

    assert made == ["after it"]


def test_a_thread_whose_call_outlives_its_close_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(interruptible_thread, "STUCK_AFTER_S", 0.01)
    go_on = threading.Event()

    async def scene() -> None:
        thread = InterruptibleThread("busy")
        thread.submit(go_on.wait, 60)
        await thread.aclose()

    asyncio.run(scene())
    go_on.set()

    (warning,) = caplog.messages
    assert "The thread busy has not ended within 0.01 s" in warning


@on_postgresql
@pytest.mark.django_db(transaction=True)
def test_a_call_that_takes_too_long_is_interrupted_and_the_thread_goes_on() -> None:
    def sleep() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(300)")

    async def scene(thread: InterruptibleThread) -> None:
        began_at = time.monotonic()
        with pytest.raises(DatabaseError):
            await call_database(sleep, limit_s=0.1)
        assert time.monotonic() - began_at < 150

        assert await call_database(lambda: "goes on") == "goes on"

    with_a_thread(scene)


@pytest.mark.django_db
@pytest.mark.parametrize("serve", [lambda: LambdaHandler().close(), lambda: run_process(nothing())])
def test_a_process_that_runs_tasks_gives_a_thread_its_answer_soon(
    serve: Callable[[], None],
) -> None:
    """Else it waits for the event loop each time, for longer than most statements take."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    try:
        serve()
        assert sys.getswitchinterval() <= 0.001
    finally:
        sys.setswitchinterval(before)


async def nothing() -> None:
    """Nothing."""
