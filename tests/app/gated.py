"""Tasks that go on when the test, or another task, says so."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar
from pathlib import Path

from asgiref.sync import sync_to_async

from lambda_tasks import lambda_task

mark: ContextVar[str] = ContextVar("mark", default="none")

_meetings: dict[str, asyncio.Barrier] = {}


@lambda_task
async def await_gate(*, gate: Path) -> None:
    while not await asyncio.to_thread(gate.exists):
        await asyncio.sleep(0.02)


# Not atomic, since a transaction that waits would keep all others from writing to SQLite.
@lambda_task(soft_timeout=0.5, hard_timeout=30, atomic=False)
def hold_on_until(*, gate: Path) -> str:
    """Until the gate is open, whatever limits say."""
    _ignore_limits()
    while not gate.exists():
        time.sleep(0.02)
    return "held on"


@lambda_task(soft_timeout=1, hard_timeout=2, atomic=False)
def start_a_program_and_hang(*, told: Path) -> None:
    """The program's id is in the file `told`. Neither ends by itself."""
    _ignore_limits()
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    told.write_text(str(program.pid))
    time.sleep(600)


def _ignore_limits() -> None:
    """As code does that holds the interpreter: only the end of its process ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])


async def _meet(place: str, guests: int) -> None:
    """Wait until so many tasks are there; all on one loop."""
    async with _meetings.setdefault(place, asyncio.Barrier(guests)):
        _meetings.pop(place, None)


@lambda_task
async def meet_and_return(*, place: str, guests: int, value: int) -> int:
    await _meet(place, guests)
    return value


@lambda_task
async def meet_and_tell_thread(*, place: str, guests: int) -> list[object]:
    await _meet(place, guests)
    return [await sync_to_async(threading.get_ident)(), mark.get()]


@lambda_task
async def leave_a_mark(*, name: str) -> list[str]:
    """What marks it has found, here and on the thread."""
    found = [mark.get(), await sync_to_async(mark.get)()]
    mark.set(name)
    await sync_to_async(mark.set)(f"{name} on the thread")
    return found
