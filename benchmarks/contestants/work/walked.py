"""Tasks whose walk through lambda_tasks is listened to, in every thread of a process that imports
this: the benchmark's own, before it starts any, and the worker processes that run the tasks.
"""

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import CO_OPTIMIZED
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import lambda_tasks
from lambda_tasks.decorators import lambda_task

ROOT: Final = Path(lambda_tasks.__file__).parents[1]
PACKAGE: Final = f"{Path(lambda_tasks.__file__).parent}/"

IN_WORKER: Final = multiprocessing.parent_process() is not None

Step = tuple[str, str]
"""A file, and the qualified name of code in it."""


class Walk:
    """The code of the package that runs while it is on, in the order of its first calls."""

    def __init__(self) -> None:
        self.is_on = IN_WORKER
        self.last: dict[CodeType, None] = {}
        self._seen: dict[CodeType, None] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """What `sys.setprofile` calls. That a coroutine goes on is a call, too."""
        if event != "call" or not self.is_on:
            return
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            if code.co_flags & CO_OPTIMIZED:  # which the bodies of modules and classes are not
                self._seen[code] = None
        elif IN_WORKER and code is Connection.recv.__code__:
            self._turn_over()  # one job has been answered, the next is awaited

    @contextmanager
    def on(self) -> Iterator[None]:
        """For the body."""
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False
            self._turn_over()

    def steps(self) -> list[Step]:
        """The functions that the last body of on(), or the last job, has called."""
        return list(dict.fromkeys(map(_step, self.last)))

    def _turn_over(self) -> None:
        self.last, self._seen = self._seen, {}


def _step(code: CodeType) -> Step:
    return str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname


walk = Walk()
threading.setprofile(walk)
sys.setprofile(walk)


@lambda_task(durable=True)
async def durable_async(*, number: int) -> int:
    return number


@lambda_task(durable=False)
async def direct_async(*, number: int) -> int:
    return number


@lambda_task(durable=True)
def durable_sync(*, number: int) -> list[Step]:
    return walk.steps()


@lambda_task(durable=False)
def direct_sync(*, number: int) -> list[Step]:
    return walk.steps()


TASKS: Final[dict[str, Any]] = {
    "durable, async": durable_async,
    "durable, sync": durable_sync,
    "direct, async": direct_async,
    "direct, sync": direct_sync,
}
