"""Where messages go: nowhere, into this very process, beside it, or to their queues."""

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from asgiref.sync import sync_to_async

from ..conf import current
from ..core.message import Outgoing
from .dispatcher import Dispatcher
from .portal import Portal

logger = logging.getLogger("lambda_tasks")


class ModeSender:
    """Noop, then eager, then local workers, then the queue's own transport.

    `run_now` runs one message to its end; `wake` tells local workers of what has been stored.
    """

    def __init__(
        self,
        portal: Portal,
        dispatcher: Dispatcher,
        *,
        run_now: Callable[[Outgoing], None],
        wake: Callable[[], None],
    ) -> None:
        self._portal = portal
        self._dispatcher = dispatcher
        self._run_now = run_now
        self._wake = wake

    def send(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """From a thread without an event loop."""
        if self._stays_here(messages):
            return {}
        return self._portal.call(self._dispatcher.send, messages)

    async def asend(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        settings = current()
        if settings.noop_execution or settings.eager or settings.local_workers:
            await sync_to_async(self._stays_here)(messages)
            return {}
        return await self._portal.acall(self._dispatcher.send, messages)

    def _stays_here(self, messages: Sequence[Outgoing]) -> bool:
        settings = current()
        if settings.noop_execution:
            for outgoing in messages:
                logger.warning(
                    "%s is dropped: LAMBDA_TASKS_NOOP_EXECUTION is set.",
                    outgoing.message.task_name,
                )
            return True
        if settings.eager:
            for outgoing in messages:
                self._run_now(outgoing)
            return True
        if settings.local_workers:
            self._wake()
            return True
        return False
