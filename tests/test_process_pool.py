"""Worker processes, and what can happen to their starts and ends."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from lambda_tasks import WorkerProcessDied
from lambda_tasks.core.lifecycle import Claim, Succeeded
from lambda_tasks.core.message import Message
from lambda_tasks.execution.process_pool import ProcessPool
from lambda_tasks.execution.run import Ended, Run

DIES, FORKS_AND_DIES = "dies", "forks and dies"

LEFT_RUNNING_S = 60


def serve(pipe: Connection) -> None:
    """A worker process that does what the name of its task says."""
    os.setpgid(0, 0)
    while True:
        try:
            run: Run = pipe.recv()
        except EOFError:
            return
        name = run.message.task_name
        if name == FORKS_AND_DIES and os.fork() == 0:
            time.sleep(LEFT_RUNNING_S)  # with the pipe open
            os._exit(0)
        if name in (DIES, FORKS_AND_DIES):
            os._exit(7)
        pipe.send(Ended(Succeeded(os.getpid())))


def run_of(task_name: str = "ends") -> Run:
    id = uuid.uuid4()
    return Run(
        message=Message(task_name=task_name, kwargs={}, invocation_id=id),
        claim=Claim(id, uuid.uuid4(), 1),
        queue="default",
        max_retries=0,
        soft_s=120.0,
        hard_s=120.0,
    )


async def asked_for(task_name: str = "ends") -> Run:
    return run_of(task_name)


async def comes_back(pool: ProcessPool) -> bool:
    for _ in range(100):  # the fork server may have met the same limit, and end first
        with suppress(OSError):
            return isinstance((await pool.run(lambda: asked_for())).outcome, Succeeded)
        await asyncio.sleep(0.1)
    return False


@contextmanager
def few_descriptors(free: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    opened: list[int] = []
    try:
        with suppress(OSError):
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(free):
            os.close(opened.pop())
        yield
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def on(pool: ProcessPool, scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(100):
            await scene

    try:
        asyncio.run(bounded())
    finally:
        pool.close()


def test_a_process_that_can_not_be_started_is_tried_again_with_the_next_run() -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        await pool.run(lambda: asked_for())
        for free in range(8):  # so that each of the steps of a start fails once
            with pytest.raises(WorkerProcessDied):
                await pool.run(lambda: asked_for(DIES))
            with few_descriptors(free), suppress(OSError):
                await pool.run(lambda: asked_for())

            assert await comes_back(pool)

    on(pool, scene())


def test_a_fork_server_that_dies_when_it_is_asked_for_a_process_is_replaced() -> None:
    pool = ProcessPool(1, serve)
    pool.prepare()
    server: Any = forkserver._forkserver
    dying: int = server._forkserver_pid

    async def scene() -> None:
        os.kill(dying, signal.SIGSTOP)  # it takes what it is asked, and does not answer
        asyncio.get_running_loop().call_later(0.5, os.kill, dying, signal.SIGKILL)

        ended = await pool.run(lambda: asked_for())

        assert isinstance(ended.outcome, Succeeded)
        assert server._forkserver_pid != dying

    on(pool, scene())


def test_what_a_dead_process_has_left_running_does_not_hide_its_death() -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        began_at = time.monotonic()
        with pytest.raises(WorkerProcessDied, match="exit code 7"):
            await pool.run(lambda: asked_for(FORKS_AND_DIES))
        assert time.monotonic() - began_at < LEFT_RUNNING_S, "its end was not waited for"

        ended = await pool.run(lambda: asked_for())

        assert isinstance(ended.outcome, Succeeded)

    on(pool, scene())


def test_a_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import asyncio, sys
sys.path.insert(0, {str(Path.cwd())!r})
import django
django.setup()
print("the script runs", flush=True)
from lambda_tasks.execution.process_pool import ProcessPool
from tests.test_process_pool import asked_for, serve

pool = ProcessPool(1, serve)
ended = asyncio.run(pool.run(lambda: asked_for()))
print(type(ended.outcome).__name__)
pool.close()
"""
    )

    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.stdout.splitlines() == ["the script runs", "Succeeded"], done.stderr
