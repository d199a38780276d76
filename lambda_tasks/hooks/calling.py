"""Calls hooks where the event happens: in the caller's or the task's thread and context."""

import asyncio
import inspect
import logging
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from asgiref.sync import async_to_sync

from ..errors import HardTimeLimitExceeded
from .hook import Hook, Receiver, name_of

logger = logging.getLogger("lambda_tasks")

E = TypeVar("E")

HOOK_LIMIT_S: Final = 5.0
"""Seconds that a function of a project has for one event, where the library can interrupt it."""


def call(
    hook: Hook[E],
    event: E,
    *,
    limited: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Call the hook's functions on this thread, each within `limited`."""
    for receiver in hook.receivers:
        with Reporting(hook, receiver, event), limited():
            call_receiver(receiver, event)


async def acall(
    hook: Hook[E],
    event: E,
    *,
    limited: Callable[[Coroutine[Any, Any, None]], Awaitable[None]],
) -> None:
    """Call the hook's functions in this asyncio task, each within `limited`."""
    for receiver in hook.receivers:
        with Reporting(hook, receiver, event):
            await limited(acall_receiver(receiver, event))


def call_receiver(receiver: Receiver[E], event: E) -> None:
    """Call a function, and run what it returns if that is awaitable."""
    returned = receiver(event)
    if not inspect.isawaitable(returned):
        return
    if _is_exiting():
        asyncio.run(_await(returned))
    else:
        async_to_sync(_await)(returned)


async def acall_receiver(receiver: Receiver[E], event: E) -> None:
    """Call a function, and await what it returns if that is awaitable."""
    returned = receiver(event)
    if inspect.isawaitable(returned):
        await returned


@dataclass(slots=True)
class Reporting:
    """A context manager that logs what a function raises in its body, and goes on after it."""

    hook: Hook[Any]
    receiver: Receiver[Any]
    event: object

    def __enter__(self) -> None:
        pass

    def __exit__(self, type_: object, error: BaseException | None, traceback_: object) -> bool:
        if error is None or not _is_of_receiver(error):
            return False
        self._report(error)
        return True

    def _report(self, error: BaseException) -> None:
        subject = getattr(self.event, "invocation_id", None) or self.event
        if isinstance(error, HardTimeLimitExceeded):
            where = "".join(traceback.format_tb(error.__traceback__))
            logger.error(
                "%s, connected to hooks.%s, was interrupted after %g s (%s):\n%s",
                name_of(self.receiver), self.hook.name, HOOK_LIMIT_S, subject, where,
            )  # fmt: skip
            return
        logger.error(
            "%s, connected to hooks.%s, failed (%s)",
            name_of(self.receiver), self.hook.name, subject, exc_info=error,
        )  # fmt: skip


def _is_of_receiver(error: BaseException) -> bool:
    """Return whether a function raised the error, and nobody who stops the code that calls it."""
    if isinstance(error, asyncio.CancelledError):
        return not _is_cancelled()
    return not isinstance(error, (KeyboardInterrupt, GeneratorExit))


def _is_cancelled() -> bool:
    """Return whether the current asyncio task, if any, was asked to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


async def _await(awaitable: Awaitable[object]) -> None:
    await awaitable


def _is_exiting() -> bool:
    """Return whether the process exits, so that asgiref's executors accept no more calls."""
    # Executors refuse calls from the begin of the shutdown, and the main thread lives a little
    # longer: until the running calls have ended.
    return getattr(threading, "_SHUTTING_DOWN", False) or not threading.main_thread().is_alive()
