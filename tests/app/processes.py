"""Sync tasks that start processes of their own."""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from django.db import connection, connections

from lambda_tasks import lambda_task
from tests.app.models import Effect

FOR_EVER_S = 300


def _square(number: int) -> int:
    return number**2


@lambda_task
def square_in_a_pool(*, numbers: list[int], method: str | None = None) -> list[int]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(_square, numbers)


@lambda_task
def square_in_an_executor(*, numbers: list[int]) -> list[int]:
    with ProcessPoolExecutor(2) as executor:
        return list(executor.map(_square, numbers))


def _write(name: str) -> None:
    Effect.objects.create(name=name, process=os.getpid())
    connections.close_all()


@lambda_task
def write_in_forked_processes(*, names: list[str]) -> int:
    """Each in a transaction of its own, beside this one."""
    Effect.objects.create(name="before")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_write, args=(name,)) for name in names]
    for child in children:
        child.start()
    for child in children:
        child.join()
    Effect.objects.create(name="after")
    return Effect.objects.filter(name__in=names).count()


def _tell_and_wait(there: Path) -> None:
    there.write_text(str(os.getpid()))
    time.sleep(FOR_EVER_S)


def _start_child(there: Path) -> None:
    connection.close()
    multiprocessing.Process(target=_tell_and_wait, args=(there,)).start()
    while not (there.exists() and there.read_text()):
        time.sleep(0.02)


@lambda_task
def leave_a_child(*, there: Path) -> None:
    _start_child(there)


@lambda_task(hard_timeout=3)
def wait_beside_a_child(*, there: Path) -> None:
    _start_child(there)
    time.sleep(FOR_EVER_S)
