"""The sender that obeys the modes: messages are dropped, run here, run beside it, or sent."""

import logging
from collections.abc import Callable, Sequence
from uuid import UUID

from asgiref.sync import sync_to_async

from ..conf import current
from ..core.message import Outgoing
from ..logging import run_attributes
from ..threads import NoThread, run_between_requests
from .background import Background
from .dispatcher import Dispatcher, announce_sent
from .failed_tasks import TasksFailed
from .portal import Portal

logger = logging.getLogger("lambda_tasks")


class ModeSender:
    """The Sender that checks the settings for noop, eager and local workers, in this order.

    Without such a mode the dispatcher sends messages to their queues. `run_now` runs one message in
    this process, and returns the error that its task has failed with, if it has. `wake` notifies
    the local workers of stored messages. `background` is None where each send is waited for.
    """

    def __init__(
        self,
        portal: Portal,
        dispatcher: Dispatcher,
        background: Background | None,
        *,
        run_now: Callable[[Outgoing], BaseException | None],
        wake: Callable[[], None],
    ) -> None:
        self._portal = portal
        self._dispatcher = dispatcher
        self._background = background
        self._run_now = run_now
        self._wake = wake

    def send(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See on_commit.Sender."""
        handle_locally = self._local_handler()
        if handle_locally is not None:
            handle_locally(messages)
            return {}
        to_send = _accept_those_of_the_table(messages)
        try:
            return self._portal.call(self._dispatcher.send, to_send) if to_send else {}
        except NoThread as error:
            return _refuse(to_send, error)

    def hand_over(self, messages: Sequence[Outgoing]) -> bool:
        """See on_commit.Sender."""
        if self._background is None or not self._may_send_later():
            return False
        try:
            self._background.take(messages)
        except NoThread:  # the caller can wait for the loop if it runs, and else reports why not
            return False
        return True

    def _may_send_later(self) -> bool:
        """Return whether this process goes on to send messages when its callers have returned."""
        settings = current()
        waits = settings.wait_for_send or settings.runs_without_queues or self._portal.is_lent
        return not waits and run_between_requests()

    async def asend(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        return await self._asend(messages)

    async def asend_patiently(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send(). Waits longer for a slow queue, as the relay can."""
        return await self._asend(messages, patient=True)

    async def _asend(
        self, messages: Sequence[Outgoing], *, patient: bool = False
    ) -> dict[UUID, str]:
        handle_locally = self._local_handler()
        if handle_locally is not None:
            await sync_to_async(handle_locally)(messages)
            return {}
        to_send = _accept_those_of_the_table(messages)
        try:
            sending = self._dispatcher.send
            return await self._portal.acall(sending, to_send, patient) if to_send else {}
        except NoThread as error:
            return _refuse(to_send, error)

    def _local_handler(self) -> Callable[[Sequence[Outgoing]], None] | None:
        """Return what handles messages in the current mode; None where they go to their queues."""
        settings = current()
        if settings.noop_execution:
            return _drop
        if settings.eager:
            return self._run_all
        if settings.local_workers:
            return lambda _: self._wake()
        return None

    def _run_all(self, messages: Sequence[Outgoing]) -> None:
        """Run messages here. Raises TasksFailed if tasks fail and the settings ask for it."""
        # All run before anything is raised: nobody else would run the others.
        errors = {each.message.invocation_id: self._run_now(each) for each in messages}
        failures = {id: error for id, error in errors.items() if error is not None}
        if failures and current().eager_raises:
            raise TasksFailed(failures)


def _accept_those_of_the_table(messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
    """Return the messages that have to be sent: the row of one of the table is in its queue."""
    for each in messages:
        if not each.look.is_sent:
            announce_sent(each)
    return [each for each in messages if each.look.is_sent]


def _refuse(messages: Sequence[Outgoing], error: NoThread) -> dict[UUID, str]:
    return {each.message.invocation_id: str(error) for each in messages}


def _drop(messages: Sequence[Outgoing]) -> None:
    for outgoing in messages:
        message = outgoing.message
        arguments = (
            message.redacted_kwargs if not message.args else (message.args, message.redacted_kwargs)
        )
        logger.warning(
            "[%s] %s(%r) for the queue %r is dropped: LAMBDA_TASKS_NOOP_EXECUTION is set.",
            message.invocation_id, message.task_name, arguments, outgoing.queue,
            extra=run_attributes(message, None, outgoing.queue),
        )  # fmt: skip
