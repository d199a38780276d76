"""The real handler without threads and processes of its own, on the connection of the test.

A TestCase never commits, so no other connection could read what a test has written.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import registry
from ..core.message import Outgoing
from ..enqueue.hand_over import HandOver
from ..enqueue.on_commit import Enqueuer, Sender
from ..entrypoints.lambda_events import EventHandler
from ..execution import progress
from ..execution.attempt import MakeAttempt
from ..execution.inline import run_inline
from ..execution.lanes import Lanes, StartAttempt, run_in_lane
from ..execution.process_pool import ProcessPool
from ..execution.run import AttemptEnd, Run
from ..local import LambdaContext
from ..ports import Joined, Outbox
from ..runtime import Runtime, serve_worker_process
from .faults import FaultyAttempt


class CapturingSender:
    """The sender that keeps messages instead of sending them. See enqueue.on_commit.Sender."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    def send(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """Keep messages; return no failures, as all of them count as accepted."""
        self.sent.extend(messages)
        return {}

    def hand_over(self, messages: Sequence[Outgoing]) -> bool:
        """Return False: a test looks at its messages right after the call."""
        return False

    async def asend(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        return self.send(messages)

    async def asend_patiently(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        return self.send(messages)


class CapturingEnqueuer(Enqueuer):
    """The enqueuer that knows the messages that wait for a commit, as all do in a TestCase."""

    joins_records = False

    def __init__(self, outbox: Outbox, sender: Sender) -> None:
        super().__init__(outbox, sender)
        self._waiting: list[tuple[BaseDatabaseWrapper, HandOver]] = []
        self.call_order: dict[UUID, int] = {}

    def make_hand_over(
        self, connection: BaseDatabaseWrapper, messages: Sequence[Outgoing], *, is_stored: bool
    ) -> HandOver:
        """See Enqueuer."""
        hand_over = super().make_hand_over(connection, messages, is_stored=is_stored)
        self._waiting.append((connection, hand_over))
        return hand_over

    def store(self, messages: Sequence[Outgoing], ages_s: Sequence[float] = ()) -> None:
        """See Enqueuer. This is the first step of each call, so it notes the order of the calls."""
        self._note(messages)
        super().store(messages, ages_s)

    def insert_unique(self, messages: Sequence[Outgoing]) -> Sequence[Joined]:
        """See Enqueuer."""
        self._note(messages)
        return super().insert_unique(messages)

    def sends_again(self, joined: Joined) -> bool:
        """See Enqueuer. A test wants to see what has been replaced."""
        return True

    def _note(self, messages: Sequence[Outgoing]) -> None:
        for outgoing in messages:
            self.call_order.setdefault(outgoing.message.invocation_id, len(self.call_order))

    def select_sendable(self, messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """See Enqueuer. Return all messages: a call for a later time was enqueued too.

        But for runs of durable functions that wait for something else than a time.
        """
        return [each for each in messages if not each.is_parked]

    def uncommitted_messages(self) -> list[Outgoing]:
        """Return the messages that wait for a commit, on the connections of all threads."""
        # Django drops the hooks of a rolled-back savepoint, so only those that it still has count.
        connections = {id(connection): connection for connection, _ in self._waiting}
        hooks = {id(hook) for each in connections.values() for _, hook, *_ in each.run_on_commit}
        waiting = (hand_over for _, hand_over in self._waiting if id(hand_over) in hooks)
        return [outgoing for hand_over in waiting for outgoing in hand_over.messages]


class CapturingRuntime(Runtime):
    """The runtime that sends nothing and whose attempts meet simulated faults."""

    def __init__(self) -> None:
        super().__init__()
        # Made now: a cached property is not safe when several threads read it first.
        _ = self.enqueuer
        executor = self.make_executor(_InlineLanes(), _InlineProcesses(self.make_attempt))
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
        """Give an event to the handler; return the ids of the messages that return to the queue."""
        answer = await self._events.handle(event, LambdaContext())
        await sync_to_async(progress.close)()
        return [each["itemIdentifier"] for each in answer["batchItemFailures"]]


class _InlineLanes(Lanes):
    """Lanes that run async tasks on the test's loop, and their ORM calls on its connection."""

    def __init__(self) -> None:
        super().__init__(1)

    async def run(self, start: StartAttempt) -> AttemptEnd:
        return await run_in_lane(start)


class _InlineProcesses(ProcessPool):
    """A process pool that runs sync tasks on the test's thread."""

    def __init__(self, make_attempt: MakeAttempt) -> None:
        super().__init__(0, serve_worker_process)
        self._make_attempt = make_attempt

    async def run(
        self,
        make_run: Callable[[], Awaitable[Run]],
        *,
        on_begin: Callable[[], None] | None = None,
        may_be_ahead: bool = False,
    ) -> AttemptEnd:
        run = await make_run()
        if on_begin is not None:
            on_begin()
        return await sync_to_async(self._run)(run)

    def _run(self, run: Run) -> AttemptEnd:
        task = registry.resolve(run.message.task_name, run.message.backend)
        try:
            return run_inline(self._make_attempt(run, task), with_limits=False)
        except KeyboardInterrupt:
            return AttemptEnd(None, interrupted=True)
