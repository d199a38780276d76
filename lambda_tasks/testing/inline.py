"""The real handler without threads and processes of its own: on the connection of the test.

A TestCase never commits, so that nobody else could see what a test has written.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import registry
from ..core.message import Outgoing
from ..enqueue.on_commit import Enqueuer, HandOver, Sender
from ..entrypoints.lambda_events import EventHandler
from ..execution import progress
from ..execution.attempt import MakeAttempt
from ..execution.inline import run_inline
from ..execution.lanes import Lanes, Start, run_in_lane
from ..execution.process_pool import ProcessPool
from ..execution.run import Ended, Run
from ..local import LambdaContext
from ..ports import Outbox
from ..runtime import Runtime, work_in_a_process
from .faults import FaultyAttempt


class CapturingSender:
    """See enqueue.on_commit.Sender: keeps what it is to send."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    def send(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """All are accepted."""
        self.sent.extend(messages)
        return {}

    async def asend(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        return self.send(messages)

    async def asend_patiently(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        return self.send(messages)


class CapturingEnqueuer(Enqueuer):
    """Knows what waits for a commit, which under a TestCase never comes."""

    def __init__(self, outbox: Outbox, sender: Sender) -> None:
        super().__init__(outbox, sender)
        self._waiting: list[tuple[BaseDatabaseWrapper, HandOver]] = []
        self.order: dict[UUID, int] = {}

    def make_hand_over(
        self, connection: BaseDatabaseWrapper, messages: Sequence[Outgoing], *, is_stored: bool
    ) -> HandOver:
        """See Enqueuer."""
        hand_over = super().make_hand_over(connection, messages, is_stored=is_stored)
        self._waiting.append((connection, hand_over))
        return hand_over

    def store(self, messages: Sequence[Outgoing]) -> None:
        """See Enqueuer. It is called first of all, so it tells the order of the calls."""
        for outgoing in messages:
            self.order.setdefault(outgoing.message.invocation_id, len(self.order))
        super().store(messages)

    def select_sendable(self, messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """See Enqueuer. All of them, as this is what was enqueued."""
        return messages

    def uncommitted(self) -> list[Outgoing]:
        """What has neither been committed nor rolled back, on the connections of all threads."""
        connections = {id(connection): connection for connection, _ in self._waiting}
        hooks = {id(hook) for each in connections.values() for _, hook, *_ in each.run_on_commit}
        waiting = (hand_over for _, hand_over in self._waiting if id(hand_over) in hooks)
        return [outgoing for hand_over in waiting for outgoing in hand_over.messages]


class CapturingRuntime(Runtime):
    """A runtime that sends nothing, and whose attempts meet simulated faults."""

    def __init__(self) -> None:
        super().__init__()
        _ = self.enqueuer  # now, as several threads may ask for it later
        executor = self.executor_of(_InlineLanes(), _InlineProcesses(self.make_attempt))
        self._events = EventHandler(self, executor)

    @cached_property
    def sender(self) -> CapturingSender:
        """See Runtime."""
        return CapturingSender()

    @cached_property
    def enqueuer(self) -> CapturingEnqueuer:
        """See Runtime."""
        return CapturingEnqueuer(self.outbox, self.sender)

    @cached_property
    def make_attempt(self) -> MakeAttempt:
        """See Runtime."""
        return partial(FaultyAttempt, finisher=self.finisher, lock=self.locks)

    async def handle(self, event: Mapping[str, Any]) -> list[str]:
        """Give an event to the handler; the ids of the messages that come back."""
        answer = await self._events.handle(event, LambdaContext())
        await sync_to_async(progress.close)()
        return [each["itemIdentifier"] for each in answer["batchItemFailures"]]


class _InlineLanes(Lanes):
    """Runs async tasks on the loop of the test, and their ORM calls on its connection."""

    def __init__(self) -> None:
        super().__init__(1)

    async def run(self, start: Start) -> Ended:
        return await run_in_lane(start)


class _InlineProcesses(ProcessPool):
    """Runs sync tasks on the thread of the test."""

    def __init__(self, make_attempt: MakeAttempt) -> None:
        super().__init__(0, work_in_a_process)
        self._make_attempt = make_attempt

    async def run(self, make_run: Callable[[], Awaitable[Run]]) -> Ended:
        return await sync_to_async(self._run)(await make_run())

    def _run(self, run: Run) -> Ended:
        task = registry.resolve(run.message.task_name, run.message.backend)
        try:
            return run_inline(self._make_attempt(run, task), with_limits=False)
        except KeyboardInterrupt:
            return Ended(None, interrupted=True)
