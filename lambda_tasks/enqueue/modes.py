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
        handle_here = self._mode()
        if handle_here is None:
            return self._portal.call(self._dispatcher.send, messages)
        handle_here(messages)
        return {}

    async def asend(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        return await self._asend(messages)

    async def asend_patiently(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send(); for callers that have nothing else to do."""
        return await self._asend(messages, patient=True)

    async def _asend(
        self, messages: Sequence[Outgoing], *, patient: bool = False
    ) -> dict[UUID, str]:
        handle_here = self._mode()
        if handle_here is None:
            return await self._portal.acall(self._dispatcher.send, messages, patient)
        await sync_to_async(handle_here)(messages)
        return {}

    def _mode(self) -> Callable[[Sequence[Outgoing]], None] | None:
        """What becomes of messages in the mode that is on; None where they leave."""
        settings = current()
        if settings.noop_execution:
            return _drop
        if settings.eager:
            return self._run_all
        if settings.local_workers:
            return lambda _: self._wake()
        return None

    def _run_all(self, messages: Sequence[Outgoing]) -> None:
        for outgoing in messages:
            self._run_now(outgoing)


def _drop(messages: Sequence[Outgoing]) -> None:
    for outgoing in messages:
        name = outgoing.message.task_name
        logger.warning("%s is dropped: LAMBDA_TASKS_NOOP_EXECUTION is set.", name)
