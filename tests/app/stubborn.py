"""Tasks that meet their time limits in every place where a coroutine can stand."""

import asyncio
import hashlib
import sys
import threading
import time

import anyio
from asgiref.sync import sync_to_async

from lambda_tasks import SoftTimeLimitExceeded, lambda_task

SOFT_S = 0.3
HARD_S = 0.8
LATE_S = 60  # a hard timeout that is not the subject
FOR_EVER_S = 300  # longer than the function that it is given to
AFTER_OWN_S = 3  # long enough for a timeout of the task's own, on a busy machine too


@lambda_task(soft_timeout=SOFT_S, hard_timeout=LATE_S)
async def block() -> None:
    time.sleep(FOR_EVER_S)


@lambda_task(soft_timeout=SOFT_S, hard_timeout=LATE_S)
async def spin_for_ever() -> None:
    while True:
        pass


@lambda_task(soft_timeout=SOFT_S, hard_timeout=LATE_S)
async def block_and_clean_up() -> str:
    try:
        time.sleep(FOR_EVER_S)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0.01)
    return "cleaned up"


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def block_and_swallow_exceptions() -> None:
    while True:
        try:
            time.sleep(FOR_EVER_S)
        except Exception:
            continue


@lambda_task(soft_timeout=SOFT_S, hard_timeout=LATE_S)
async def block_in_a_task_of_its_own() -> None:
    async def blocking() -> None:
        time.sleep(FOR_EVER_S)

    await asyncio.create_task(blocking())


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
async def swallow_everything() -> None:
    while True:
        try:
            await asyncio.sleep(FOR_EVER_S)
        except BaseException:
            continue


@lambda_task(soft_timeout=SOFT_S, hard_timeout=LATE_S)
async def wait_for_a_task_group() -> list[str]:
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        finally:
            ended.append(name)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child("one"))
            group.create_task(child("two"))
    except* SoftTimeLimitExceeded:
        ended.append("group")
    await _nothing_is_left_over()
    return sorted(ended)


@lambda_task(soft_timeout=3, hard_timeout=LATE_S)  # anyio loads its backend at its first group
async def wait_for_an_anyio_task_group() -> list[str]:
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await anyio.sleep(FOR_EVER_S)
        finally:
            ended.append(name)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(child, "one")
            group.start_soon(child, "two")
    except* SoftTimeLimitExceeded:
        ended.append("group")
    await _nothing_is_left_over()
    return sorted(ended)


@lambda_task(soft_timeout=SOFT_S, hard_timeout=LATE_S)
async def wait_inside_of_a_task_group() -> list[str]:
    ended: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        finally:
            ended.append("child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.sleep(FOR_EVER_S)
    except* SoftTimeLimitExceeded:
        ended.append("group")
    await _nothing_is_left_over()
    return sorted(ended)


@lambda_task(soft_timeout=AFTER_OWN_S, hard_timeout=LATE_S)
async def wait_under_timeouts(*, own_s: float) -> str:
    try:
        async with asyncio.timeout(own_s + FOR_EVER_S), asyncio.timeout(own_s):
            await asyncio.sleep(FOR_EVER_S)
    except SoftTimeLimitExceeded:
        found = "soft timeout"
    except TimeoutError:
        found = "own timeout"
    await _nothing_is_left_over()
    return found


@lambda_task(soft_timeout=AFTER_OWN_S, hard_timeout=LATE_S)
async def wait_under_an_anyio_scope(*, own_s: float) -> str:
    found = "scope"
    try:
        with anyio.move_on_after(own_s + FOR_EVER_S), anyio.move_on_after(own_s):
            await anyio.sleep(FOR_EVER_S)
    except SoftTimeLimitExceeded:
        found = "soft timeout"
    await _nothing_is_left_over()
    return found


@lambda_task(soft_timeout=SOFT_S, hard_timeout=LATE_S)
async def gather_and_wait() -> list[str]:
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(FOR_EVER_S)
        finally:
            ended.append(name)

    try:
        await asyncio.gather(child("one"), child("two"))
    except SoftTimeLimitExceeded:
        ended.append("soft timeout")
    await _nothing_is_left_over()
    return sorted(ended)


@lambda_task(soft_timeout=SOFT_S, hard_timeout=30)
async def clean_up_with_limits_and_groups_of_its_own() -> list[object]:
    async def fail() -> None:
        raise ValueError

    task = asyncio.current_task()
    assert task is not None
    found: list[object] = []
    try:
        await asyncio.sleep(30)
    except SoftTimeLimitExceeded:
        found.append(task.cancelling())
    try:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(30)
    except TimeoutError:
        found.append("own timeout")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            await asyncio.sleep(30)
    except* ValueError:
        found.append("own group")
    return found


@lambda_task(soft_timeout=SOFT_S, hard_timeout=HARD_S)
def compute_in_c() -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)


@lambda_task(soft_timeout=20, hard_timeout=25, on_lost="fail", atomic=False)
def compute_in_c_only_once() -> None:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)


async def _nothing_is_left_over() -> None:
    """A stray cancellation would show at the next awaits."""
    for _ in range(3):
        await asyncio.sleep(0.01)
    task = asyncio.current_task()
    assert task is not None
    # Python 3.11's TaskGroup forgets to count down where a child fails while it is waited for.
    assert sys.version_info < (3, 12) or task.cancelling() == 0


@lambda_task(soft_timeout=3, hard_timeout=4)
def take_half_a_second() -> None:
    time.sleep(0.5)


# Not atomic, since a hanging transaction would keep all others from writing to SQLite.
@lambda_task(soft_timeout=40, hard_timeout=50, atomic=False)
async def hang_in_a_thread() -> None:
    await sync_to_async(time.sleep)(30)


@lambda_task(soft_timeout=40, hard_timeout=50, on_lost="fail", atomic=False)
async def hang_in_a_thread_only_once() -> None:
    await sync_to_async(time.sleep)(30)


filling: list["asyncio.Future[bool]"] = []
is_over = threading.Event()


@lambda_task
async def fill_the_default_executor() -> None:
    """As forty look-ups do that hang."""
    loop = asyncio.get_running_loop()
    filling.extend(loop.run_in_executor(None, is_over.wait, 300) for _ in range(40))


@lambda_task
async def leave_a_thread(*, awaits: bool) -> None:
    """It hangs in one of the event loop's own threads."""
    hanging = asyncio.get_running_loop().run_in_executor(None, time.sleep, FOR_EVER_S)
    if awaits:
        await hanging
