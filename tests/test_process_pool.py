"""Worker processes, and what can happen to their starts and ends."""

import asyncio
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from lambda_tasks import LambdaTasksError, WorkerProcessDied
from lambda_tasks.core.lifecycle import Claim, Succeeded
from lambda_tasks.core.message import Message
from lambda_tasks.execution import (
    process_pool,
    process_slot,
    process_start,
    run_socket,
    worker_pipe,
)
from lambda_tasks.execution.process_pool import ProcessPool
from lambda_tasks.execution.process_start import ProcessNotStarted, StartedProcess
from lambda_tasks.execution.run import AttemptEnd, Run
from lambda_tasks.threads import NoThread
from tests.conftest import PATIENCE_S, wait_for

DIES, FORKS_AND_DIES, STOPS_AS_IT_ANSWERS = "dies", "forks and dies", "stops as it answers"
DIES_AS_IT_TAKES = "dies as it takes its run"

LARGE = "a" * 5_000_000
"""More than a pipe takes at once."""

LEFT_RUNNING_S = 60


def serve(pipe: Connection, workers_end: socket.socket) -> None:
    """A worker process that does what the name of its task says."""
    os.setpgid(0, 0)
    pipe.send_bytes(worker_pipe.READY)
    while True:
        try:
            taken = run_socket.take(workers_end, pipe, waits=True)
        except EOFError:
            return
        assert taken is not None
        run: Run = taken.load()
        name = run.message.task_name
        if name == DIES_AS_IT_TAKES:
            os._exit(7)
        worker_pipe.tell(pipe, begun=taken.number)
        if name == FORKS_AND_DIES and os.fork() == 0:
            time.sleep(LEFT_RUNNING_S)  # with the pipe open
            os._exit(0)
        if name in (DIES, FORKS_AND_DIES):
            os._exit(7)
        if name == STOPS_AS_IT_ANSWERS:
            os.write(pipe.fileno(), b"a part of it")
            os.kill(os.getpid(), signal.SIGSTOP)
        if name.startswith("waits for "):
            wait_for(Path(name.removeprefix("waits for ")).exists)
        result = run.message.kwargs or os.getpid()
        worker_pipe.tell(pipe, ended=taken.number, answer=AttemptEnd(Succeeded(result)))


def serve_by_datagrams(pipe: Connection, workers_end: socket.socket) -> None:
    """A worker process on a platform without sequenced packets."""
    run_socket.HAS_PACKETS = False  # type: ignore[misc]
    serve(pipe, workers_end)


def hang_before_it_is_ready(pipe: Connection, workers_end: socket.socket) -> None:
    """A worker process that tells its id to who looks for it, and then nothing."""
    Path(os.environ[HANGS_AT]).write_text(str(os.getpid()))
    while pipe.fileno():
        time.sleep(1)


HANGS_AT = "LAMBDA_TASKS_TEST_HANGS_AT"


async def run_of(task_name: str = "ends", **kwargs: Any) -> Run:
    id = uuid.uuid4()
    return Run(
        message=Message(task_name=task_name, kwargs=kwargs, invocation_id=id),
        claim=Claim(id, uuid.uuid4(), 1),
        queue="default",
        max_retries=0,
        soft_s=120.0,
        hard_s=120.0,
    )


async def comes_back(pool: ProcessPool) -> bool:
    for _ in range(100):  # the fork server may have met the same limit, and end first
        with suppress(ProcessNotStarted):
            return isinstance((await pool.run(run_of)).outcome, Succeeded)
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
        try:
            async with asyncio.timeout(100):
                await scene
        finally:
            await pool.aclose()

    asyncio.run(bounded())


def test_a_process_that_can_not_be_started_is_tried_again_with_the_next_run() -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        await pool.run(run_of)
        for free in range(8):  # so that each of the steps of a start fails once
            with pytest.raises(WorkerProcessDied):
                await pool.run(lambda: run_of(DIES))
            with few_descriptors(free), suppress(ProcessNotStarted):
                await pool.run(run_of)

            assert await comes_back(pool)

    on(pool, scene())


def test_a_run_is_given_back_where_no_thread_can_start_its_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = ProcessPool(1, serve)

    async def refuse(*call: object) -> None:
        raise NoThread

    async def scene() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(process_pool, "in_reserved_thread", refuse)
            with pytest.raises(ProcessNotStarted, match="no thread could be started"):
                await pool.run(run_of)

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

        ended = await pool.run(run_of)

        assert isinstance(ended.outcome, Succeeded)
        assert server._forkserver_pid != dying

    on(pool, scene())


def fork_server_pid() -> int:
    server: Any = forkserver._forkserver
    pid: int = server._forkserver_pid
    return pid


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("has_loaded", [True, False], ids=["loaded", "loading"])
def test_a_fork_server_that_hangs_is_replaced_and_what_it_has_started_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_loaded: bool
) -> None:
    pool, gate = ProcessPool(2, serve), tmp_path / "gate"

    async def scene() -> None:
        neighbour = asyncio.create_task(pool.run(lambda: run_of(f"waits for {gate}")))
        await until(pool.pids)
        if not has_loaded:
            os.kill(fork_server_pid(), signal.SIGKILL)
            await until(lambda: not is_alive(fork_server_pid()))
            await asyncio.to_thread(pool.prepare)
        hanging = fork_server_pid()
        os.kill(hanging, signal.SIGSTOP)
        asked_for: list[str] = []

        async def ask() -> Run:
            asked_for.append("a run")
            return await run_of()

        with monkeypatch.context() as patch, pytest.raises(ProcessNotStarted):
            patch.setattr(process_start, "START_LIMIT_S", 0.5)
            await pool.run(ask)

        assert not asked_for, "its time had not begun"
        await until(lambda: not is_alive(hanging))
        assert isinstance((await pool.run(run_of)).outcome, Succeeded)
        assert fork_server_pid() != hanging
        gate.touch()
        assert isinstance((await neighbour).outcome, Succeeded)

    on(pool, scene())


def test_a_start_that_nobody_waits_for_any_more_is_the_next_ones(tmp_path: Path) -> None:
    pool = ProcessPool(1, serve)
    pool.prepare()
    before = set(multiprocessing.active_children())  # of earlier tests

    async def scene() -> None:
        server = fork_server_pid()
        os.kill(server, signal.SIGSTOP)
        cancelled = asyncio.create_task(pool.run(run_of))
        await asyncio.sleep(0.2)  # most likely it waits for the fork server by now
        cancelled.cancel()
        await asyncio.wait([cancelled])
        following = asyncio.create_task(pool.run(run_of))
        await asyncio.sleep(0.2)

        os.kill(server, signal.SIGCONT)

        ended = await following
        assert isinstance(ended.outcome, Succeeded)
        assert [ended.outcome.result] == pool.pids()
        assert len(set(multiprocessing.active_children()) - before) == 1

    on(pool, scene())


def test_the_end_of_a_pool_waits_for_no_process_that_does_not_get_ready(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool, told = ProcessPool(1, hang_before_it_is_ready), tmp_path / "pid"
    monkeypatch.setenv(HANGS_AT, str(told))
    monkeypatch.setattr(process_start, "START_LIMIT_S", 1_000.0)
    with suppress(ProcessLookupError, TypeError):
        os.kill(fork_server_pid(), signal.SIGKILL)  # another one will know where to tell

    async def scene() -> None:
        starting = asyncio.create_task(pool.run(run_of))
        await until(lambda: told.exists() and told.read_text())

        await pool.aclose()

        with pytest.raises(ProcessNotStarted):
            await starting
        pid = int(told.read_text())
        await until(lambda: not is_alive(pid))
        assert multiprocessing.active_children() == []

    on(pool, scene())


def test_the_end_of_a_pool_waits_for_no_fork_server_that_hangs() -> None:
    pool = ProcessPool(2, serve)
    others = multiprocessing.active_children()  # of earlier tests, which are just ending

    async def scene() -> None:
        await asyncio.gather(pool.run(run_of), pool.run(run_of))
        processes, hanging = pool.pids(), fork_server_pid()
        os.kill(hanging, signal.SIGSTOP)

        await pool.aclose()

        left = [each for each in multiprocessing.active_children() if each not in others]
        assert left == [], "Python's own end would wait for them"
        await until(lambda: not any(map(is_alive, [hanging, *processes])))

    on(pool, scene())


@pytest.mark.parametrize("text", ["small", LARGE], ids=["small", "large"])
def test_a_process_that_takes_no_runs_is_replaced_and_the_run_runs(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    pool = ProcessPool(1, serve)
    monkeypatch.setattr(process_pool, "TAKE_LIMIT_S", 4.0)

    async def scene() -> None:
        await pool.run(run_of)
        (stopped,) = pool.pids()
        os.kill(stopped, signal.SIGSTOP)
        # Until it has stopped, it may still take a run.
        await until(lambda: psutil.Process(stopped).status() == psutil.STATUS_STOPPED)

        ended = await pool.run(lambda: run_of(text=text))

        assert ended.outcome == Succeeded({"text": text})
        assert not is_alive(stopped)

    on(pool, scene())


def test_a_process_that_does_not_say_all_of_its_answer_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        with monkeypatch.context() as patch, pytest.raises(LambdaTasksError, match="its answer"):
            patch.setattr(process_slot, "ANSWER_LIMIT_S", 0.5)
            await pool.run(lambda: run_of(STOPS_AS_IT_ANSWERS))

        assert isinstance((await pool.run(run_of)).outcome, Succeeded)

    on(pool, scene())


async def ahead(pool: ProcessPool, make_run: Callable[[], Awaitable[Run]], begun: list[str]) -> Any:
    """Run what may be sent while all processes are busy, and note that it begins."""
    return await pool.run(make_run, on_begin=lambda: begun.append("a run"), may_be_ahead=True)


def test_a_run_that_was_sent_ahead_does_not_wait_behind_a_long_one(tmp_path: Path) -> None:
    pool, gate = ProcessPool(2, serve), tmp_path / "gate"

    async def scene() -> None:
        long = asyncio.create_task(pool.run(lambda: run_of(f"waits for {gate}")))

        ended = await asyncio.gather(*(ahead(pool, run_of, []) for _ in range(10)))

        assert len(ended) == 10
        assert not long.done()
        gate.touch()
        await long

    on(pool, scene())


def test_the_death_of_a_process_does_not_hit_what_was_sent_ahead() -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        await pool.run(run_of)
        begun: list[str] = []
        runs = [ahead(pool, lambda: run_of(DIES), begun)]
        runs += [ahead(pool, run_of, begun) for _ in range(4)]

        ends = await asyncio.gather(*runs, return_exceptions=True)

        assert isinstance(ends[0], WorkerProcessDied)
        assert all(isinstance(each, AttemptEnd) for each in ends[1:])
        assert len(begun) == 5

    on(pool, scene())


def test_what_a_process_has_taken_and_not_announced_when_it_dies_has_not_begun() -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        begun: list[str] = []
        with pytest.raises(ProcessNotStarted):
            await ahead(pool, lambda: run_of(DIES_AS_IT_TAKES), begun)
        assert not begun

        assert isinstance((await pool.run(run_of)).outcome, Succeeded)

    on(pool, scene())


def test_what_is_cancelled_ahead_is_withdrawn_and_its_neighbours_run(tmp_path: Path) -> None:
    pool, gate = ProcessPool(1, serve), tmp_path / "gate"

    async def scene() -> None:
        await pool.run(run_of)
        busy = asyncio.create_task(pool.run(lambda: run_of(f"waits for {gate}")))
        begun: list[str] = []
        first, second, third = (asyncio.create_task(ahead(pool, run_of, begun)) for _ in range(3))
        await asyncio.sleep(0.1)  # they are sent, most likely

        second.cancel()
        await asyncio.wait([second])
        gate.touch()

        (pid,) = pool.pids()
        ends = await asyncio.gather(busy, first, third)
        assert [each.outcome for each in ends] == [Succeeded(pid)] * 3, "no process was killed"
        assert len(begun) == 2

    on(pool, scene())


def test_a_cancelled_run_that_has_begun_ends_with_its_process(tmp_path: Path) -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        running = asyncio.create_task(pool.run(lambda: run_of(f"waits for {tmp_path / 'never'}")))
        await until(pool.pids)
        (killed,) = pool.pids()
        await asyncio.sleep(0.1)  # it has begun, most likely

        running.cancel()

        await until(lambda: not is_alive(killed))
        assert isinstance((await pool.run(run_of)).outcome, Succeeded)

    on(pool, scene())


@pytest.mark.parametrize("is_killed", [False, True])
def test_while_the_process_of_a_cancelled_run_ends_the_next_run_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    pool, end, go_on = ProcessPool(1, serve), StartedProcess.end, threading.Event()

    def end_late(process: StartedProcess) -> None:
        go_on.wait(PATIENCE_S)
        end(process)

    async def scene() -> None:
        running = asyncio.create_task(pool.run(lambda: run_of(f"waits for {tmp_path / 'never'}")))
        await until(pool.pids)
        await asyncio.sleep(0.1)  # it has begun, most likely
        monkeypatch.setattr(StartedProcess, "end", end_late)

        if is_killed:
            os.kill(pool.pids()[0], signal.SIGKILL)
            await until(lambda: not pool.pids())
        running.cancel()
        await asyncio.wait([running])

        assert isinstance((await pool.run(run_of)).outcome, Succeeded)
        go_on.set()

    on(pool, scene())


def test_where_there_are_no_sequenced_packets_processes_take_datagrams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_socket, "HAS_PACKETS", False)
    pool = ProcessPool(2, serve_by_datagrams)

    async def scene() -> None:
        texts = ["a" * size for size in (1, 100, 5_000, 500_000)] * 3
        ends = await asyncio.gather(*(pool.run(partial(run_of, text=text)) for text in texts))
        assert [each.outcome for each in ends] == [Succeeded({"text": text}) for text in texts]
        processes = pool.pids()

        await pool.aclose()

        await until(lambda: not any(map(is_alive, processes)))

    on(pool, scene())


def test_what_a_dead_process_has_left_running_does_not_hide_its_death() -> None:
    pool = ProcessPool(1, serve)

    async def scene() -> None:
        began_at = time.monotonic()
        with pytest.raises(WorkerProcessDied, match="exit code 7"):
            await pool.run(lambda: run_of(FORKS_AND_DIES))
        assert time.monotonic() - began_at < LEFT_RUNNING_S, "its end was not waited for"

        ended = await pool.run(run_of)

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
from tests.test_process_pool import run_of, serve

async def run():
    pool = ProcessPool(1, serve)
    ended = await pool.run(run_of)
    print(type(ended.outcome).__name__)
    await pool.aclose()

asyncio.run(run())
"""
    )

    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.stdout.splitlines() == ["the script runs", "Succeeded"], done.stderr
