"""The sending of stored messages in the background, after their commit.

Nobody waits for these messages. They gather for some milliseconds, so that the calls of all
requests of the process share requests to SQS, and statements that mark them as sent. What is not
sent 20 seconds after its commit is forgotten: from then on the relay owns it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextvars import Context
from typing import Final

from .. import hooks
from ..core.message import Outgoing
from ..hooks.beside import start_calling
from ..interrupts import start_watch
from ..ports import Outbox, SendFailure
from ..threads import prepare_for_exit
from .dispatcher import DRAIN_S, Dispatcher
from .marker import Marker
from .outage_log import OutageLog
from .portal import Portal

GATHER_FOR_S: Final = 0.01
"""Seconds in which messages gather before they are sent."""

MARK_S: Final = 1.0
"""Seconds to mark messages at the end of a process, if sending has taken all of DRAIN_S."""


class Background:
    """The hand-over of committed messages from the threads of requests to the dispatcher's loop."""

    def __init__(self, portal: Portal, dispatcher: Dispatcher, outbox: Outbox) -> None:
        self._portal = portal
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._outages = OutageLog()
        self._taken: deque[tuple[float, Sequence[Outgoing]]] = deque()
        self._is_scheduled = False
        self._preparing = threading.RLock()  # for handlers of signals that call tasks
        self._marker: Marker | None = None

    def take(self, messages: Sequence[Outgoing]) -> None:
        """Send messages soon. Returns at once; can be called on any thread.

        Raises NoThread where a thread can't be started; nothing is taken then.
        """
        loop = self._portal.loop()
        if self._marker is None:
            self._prepare()
        self._taken.append((time.monotonic(), messages))
        # Two threads may both find it False. Then there are two looks, and one of them finds none.
        if not self._is_scheduled:
            self._is_scheduled = True
            # In a context of its own: what follows is for the messages of many requests.
            loop.call_soon_threadsafe(self._schedule, context=Context())

    async def drain(self) -> None:
        """Send and mark what was taken until now, within DRAIN_S seconds.

        What is still open then is sent by the relay.
        """
        self._send_taken()
        deadline = time.monotonic() + DRAIN_S
        await self._dispatcher.drain(within_s=DRAIN_S)
        if self._marker is None:
            return
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), MARK_S)):
                await self._marker.close()
        except TimeoutError:
            pass  # the relay sends what is not marked once more, and the claim lets one run

    def close(self) -> None:
        """End the marker's thread."""
        if self._marker is not None:
            self._marker.end()

    def _prepare(self) -> None:
        """Start what drain() needs at the end of a process, when Python 3.12 starts no thread."""
        with self._preparing:
            if self._marker is None:
                prepare_for_exit()
                start_watch()
                if hooks.sent:
                    start_calling()
                marker = Marker(self._outbox)
                if self._marker is None:
                    self._marker = marker
                else:  # the handler of a signal has just made one
                    marker.end()

    def _schedule(self) -> None:
        asyncio.get_running_loop().call_later(GATHER_FOR_S, self._send_taken)

    def _send_taken(self) -> None:
        self._is_scheduled = False  # first: a message that comes now has its own look, or this one
        while self._taken:
            committed_at, messages = self._taken.popleft()
            self._dispatcher.send_in_background(messages, committed_at, self._report)

    def _report(self, outgoing: Outgoing, failure: SendFailure | None) -> None:
        """Note what became of a message."""
        assert self._marker is not None
        if failure is None:
            self._outages.note_success(outgoing.queue)
            self._marker.add_sent(outgoing)
        else:
            self._outages.note_failure(outgoing.queue, failure.reason)
            self._marker.add_unsent(outgoing)
