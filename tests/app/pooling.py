"""Tasks for projects whose database has a connection pool."""

import asyncio
import os
import select
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection

from lambda_tasks import SoftTimeLimitExceeded, TaskContext, lambda_task
from lambda_tasks.models import TaskRecord
from tests.app.models import Effect


def _session() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid: int = cursor.fetchone()[0]
        return pid


@lambda_task(on_lost="fail")
async def ahold(*, seconds: float) -> int:
    """Keeps its connection for a while."""
    await Effect.objects.acreate(name="held")
    await asyncio.sleep(seconds)
    return await Effect.objects.acount()


held = threading.Event()
"""Set while a task of this process keeps its connection."""


@lambda_task(takes_context=True)
async def ahold_while_another_runs(context: TaskContext) -> None:
    others = TaskRecord.objects.filter(status="RUNNING").exclude(id=context.invocation_id)
    while await others.aexists():
        held.set()
        await asyncio.sleep(0.05)


async def _until_it_is_held() -> None:
    while not held.is_set():
        await asyncio.sleep(0.01)


@lambda_task(soft_timeout=5, hard_timeout=6)
async def awrite_beside(*, name: str) -> None:
    await _until_it_is_held()
    await Effect.objects.acreate(name=name)


@lambda_task(soft_timeout=5, hard_timeout=6)
async def awrite_stubbornly_beside(*, name: str) -> None:
    await _until_it_is_held()
    while True:
        with suppress(DatabaseError, SoftTimeLimitExceeded):
            await Effect.objects.acreate(name=name)


@lambda_task
async def acount_in_another_thread() -> int:
    await Effect.objects.acreate(name="one")
    return await asyncio.to_thread(Effect.objects.count)


@lambda_task
def leave_a_thread(*, seconds: float) -> None:
    """It takes the connection that this task gives back, and keeps it for a while."""

    def keep() -> None:
        Effect.objects.count()
        time.sleep(seconds)
        connection.close()

    Effect.objects.count()
    threading.Thread(target=keep, daemon=True).start()


@lambda_task(soft_timeout=1, hard_timeout=2)
def write_in_a_hurry(*, name: str) -> None:
    Effect.objects.create(name=name)


@lambda_task(soft_timeout=100, hard_timeout=110)
def tell_time_left() -> float:
    """In seconds, until the alarm of the soft timeout."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


@lambda_task
def count_threads_that_take_alarms() -> int:
    Effect.objects.count()
    alarm = 1 << (signal.SIGALRM - 1)
    statuses = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
    blocked = [int(each.partition("SigBlk:")[2].split()[0], 16) for each in statuses]
    assert len(blocked) > 1
    return sum(not mask & alarm for mask in blocked)


@lambda_task(takes_context=True, on_lost="fail")
async def ashow_progress(context: TaskContext) -> None:
    await Effect.objects.acreate(name="shown")
    await context.aprogress(1, 2, "half")


@lambda_task(on_lost="fail")
async def awrite_once(*, name: str) -> int:
    await Effect.objects.acreate(name=name)
    return await sync_to_async(_session)()


def _wait_until_it_is_cut() -> None:
    Effect.objects.count()
    signs = select.poll()
    signs.register(connection.connection.fileno(), select.POLLIN)
    signs.poll(60_000)


@lambda_task(soft_timeout=1, hard_timeout=2, atomic=False)
async def hang_until_the_connection_is_cut() -> None:
    while True:
        with suppress(SoftTimeLimitExceeded):
            await sync_to_async(_wait_until_it_is_cut)()


@lambda_task(soft_timeout=200, hard_timeout=290, atomic=False)
async def hang_until_the_end_of_the_event() -> None:
    await sync_to_async(_wait_until_it_is_cut)()


@lambda_task(on_lost="fail")
def tell_session(*, seconds: float) -> list[int]:
    """The process, and the server's, of a transaction that is open for a while."""
    Effect.objects.create(name=str(os.getpid()), process=os.getpid())
    first = _session()
    time.sleep(seconds)
    assert Effect.objects.filter(name=str(os.getpid())).exists()
    assert _session() == first
    return [os.getpid(), first]


@lambda_task
def tell_session_of_a_child() -> list[int]:
    """The server's process of this one's connection, and that of a process that it has forked."""
    Effect.objects.create(name="of the parent")
    own = _session()
    reader, writer = os.pipe()
    if not os.fork():
        try:
            os.write(writer, str(_session()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        of_child = told.read()
    assert _session() == own
    return [own, int(of_child)]
