"""The marker, which marks the messages that were accepted in the background as sent, many at once.

It has a thread, and so a database connection, of its own. The connection closes when there has been
nothing to mark for a while: the end of a test run can't drop a database that has connections.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from django.db import connections

from ..core.message import Outgoing
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S, interrupt_after, limit_connecting
from ..ports import Outbox
from ..threads import make_executor

logger = logging.getLogger("lambda_tasks")

GATHER_FOR_S: Final = 0.1
"""Seconds in which accepted messages gather, to be marked with one statement."""

CLOSE_AFTER_S: Final = 1.0
"""Seconds without work after which the connection is closed."""

MAX_MARKED_TOGETHER: Final = 1000
"""The most messages that one statement marks."""


class Marker:
    """The records of messages that were sent, or not, and that are still to be updated.

    All methods are called on one event loop.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._sent: list[Outgoing] = []
        self._unsent: list[Outgoing] = []
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._hurry = asyncio.Event()
        self._is_closing = False
        self._executor = _start_thread()

    def add_sent(self, outgoing: Outgoing) -> None:
        """Mark a message as sent, soon."""
        self._sent.append(outgoing)
        if len(self._sent) >= MAX_MARKED_TOGETHER:
            self._hurry.set()
        self._start()

    def add_unsent(self, outgoing: Outgoing) -> None:
        """Make a message due for the relay, soon, where it holds up those behind it."""
        if outgoing.look.in_order:
            self._unsent.append(outgoing)
            self._start()

    async def close(self) -> None:
        """Mark now what is still to be marked, and close the connection until its next use."""
        self._is_closing = True
        self._hurry.set()
        try:
            if self._task is not None:
                await asyncio.shield(self._task)
        finally:  # also if the caller waits no longer: what comes later gathers again
            self._is_closing = False
            self._hurry.clear()
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
            await self._on_thread(connections.close_all)

    def end(self) -> None:
        """End the thread."""
        self._executor.shutdown(wait=False)

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._mark_all())

    async def _mark_all(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        while self._sent or self._unsent:
            await self._gather()
            sent, self._sent = self._sent, []
            unsent, self._unsent = self._unsent, []
            await self._on_thread(partial(self._mark, sent, unsent))
        self._task = None
        self._closing = asyncio.get_running_loop().call_later(CLOSE_AFTER_S, self._close)

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(GATHER_FOR_S):
                await self._hurry.wait()
        except TimeoutError:
            pass
        if not self._is_closing:
            self._hurry.clear()

    def _mark(self, sent: Sequence[Outgoing], unsent: Sequence[Outgoing]) -> None:
        for start in range(0, max(len(sent), len(unsent)), MAX_MARKED_TOGETHER):
            part = slice(start, start + MAX_MARKED_TOGETHER)
            with interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
                update_records(self._outbox, sent[part], unsent[part], only_new=True)

    def _close(self) -> None:
        self._closing = None
        self._executor.submit(connections.close_all)

    async def _on_thread(self, function: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, function)


def _start_thread() -> ThreadPoolExecutor:
    executor = make_executor(1, "lambda_tasks-marker")
    executor.submit(limit_connecting)  # at once: Python 3.12 starts no thread as a process ends
    return executor


def update_records(
    outbox: Outbox, sent: Sequence[Outgoing], unsent: Sequence[Outgoing], *, only_new: bool = False
) -> None:
    """Mark stored messages as sent, and make those that hold up others due for the relay.

    An error is only logged. The relay then sends messages once more, and the claim lets one
    delivery run.
    """
    try:
        if in_order := [each for each in unsent if each.look.in_order]:
            outbox.leave_to_relay(in_order)
        if sent:
            outbox.mark_sent(sent, only_new=only_new)
    except Exception:
        logger.exception("%d messages were sent and could not be marked as sent", len(sent))
