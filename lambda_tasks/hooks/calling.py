"""Calls hooks where the event happens: in the caller's or the task's thread and context."""

import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

from asgiref.sync import async_to_sync

from ..errors import HardTimeLimitExceeded
from .hook import Hook, Receiver, name_of

logger = logging.getLogger("lambda_tasks")

E = TypeVar("E")

HOOK_LIMIT_S: Final = 5.0
"""Seconds that a function of a project has for one event, where the library can interrupt it."""

FAILURES: Final = (Exception, HardTimeLimitExceeded, SystemExit)
"""The errors of a hook that are logged. KeyboardInterrupt and cancellation are not its own."""


def call(
    hook: Hook[E],
    event: E,
    *,
    limited: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Call the hook's functions on this thread, each within `limited`."""
    for receiver in hook.receivers:
        try:
            with limited():
                call_receiver(receiver, event)
        except FAILURES as error:
            report(hook, receiver, event, error)


async def acall(
    hook: Hook[E],
    event: E,
    *,
    limited: Callable[[Coroutine[Any, Any, None]], Awaitable[None]],
) -> None:
    """Call the hook's functions in this asyncio task, each within `limited`."""
    for receiver in hook.receivers:
        try:
            await limited(acall_receiver(receiver, event))
        except FAILURES as error:
            report(hook, receiver, event, error)


def call_receiver(receiver: Receiver[E], event: E) -> None:
    """Call a function, and run what it returns if that is awaitable."""
    returned = receiver(event)
    if inspect.isawaitable(returned):
        async_to_sync(_await)(returned)


async def acall_receiver(receiver: Receiver[E], event: E) -> None:
    """Call a function, and await what it returns if that is awaitable."""
    returned = receiver(event)
    if inspect.isawaitable(returned):
        await returned


def report(hook: Hook[E], receiver: Receiver[E], event: E, error: BaseException) -> None:
    """Log the failure of a function."""
    subject = getattr(event, "invocation_id", None) or event
    if isinstance(error, HardTimeLimitExceeded):
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.error(
            "%s, connected to hooks.%s, was interrupted after %g s (%s):\n%s",
            name_of(receiver), hook.name, HOOK_LIMIT_S, subject, where,
        )  # fmt: skip
        return
    logger.error(
        "%s, connected to hooks.%s, failed (%s)",
        name_of(receiver), hook.name, subject, exc_info=error,
    )  # fmt: skip


async def _await(awaitable: Awaitable[object]) -> None:
    await awaitable
