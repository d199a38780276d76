"""The enqueuer, which joins the caller's transaction and sends its messages after the commit.

A durable message is stored as a record in the transaction itself, together with those of the calls
after it (`joining`). After the commit it is handed over and sent in the background, where the
process and the database allow that. Otherwise the caller waits until its messages are sent, and the
stored ones that were accepted are marked as sent.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, Protocol
from uuid import UUID

from asgiref.sync import SyncToAsync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .. import hooks
from ..core.message import Outgoing
from ..database_calls import call_database
from ..errors import EnqueueError
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S, interrupt_after
from ..ports import Joined, Joins, Outbox, Released, StoredStep, StoredWorkflow
from ..threads import check_event_loops
from . import joining
from .announcing import aannounce, announce
from .failed_tasks import TasksFailed
from .hand_over import HandOver, find_joinable, hand_overs_on
from .marker import update_records

logger = logging.getLogger("lambda_tasks")


Hook = Callable[[Joins], None]

NO_JOINS: Joins = {}

RELEASED_PAGE: Final = 1000
"""Messages of released steps that are read and sent together."""

SEND_RELEASED_FOR_S: Final = 20.0
"""Seconds in which released steps are sent page by page. From then on the relay sends the rest."""


class Stored(NamedTuple):
    """What became of messages: those to hand over, and the calls that have joined others."""

    to_send: Sequence[Outgoing]
    joins: Joins = NO_JOINS


class Sender(Protocol):
    """The way of messages to their queues."""

    def send(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """Send messages, in a thread without an event loop.

        Returns the reason for each message that was not accepted, by invocation id. Raises
        TasksFailed in eager mode, if the settings ask for it.
        """
        ...

    def hand_over(self, messages: Sequence[Outgoing]) -> bool:
        """Take stored messages to send and mark them in the background; wait for nothing.

        Returns False, and takes none, where the caller must wait for the send.
        """
        ...

    async def asend(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        ...

    async def asend_patiently(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send(). Waits longer for a slow queue, as the relay can."""
        ...


class Enqueuer:
    """The entrance of the way out: it stores messages and sends them after the commit."""

    joins_records: ClassVar[bool] = True
    """Whether the records of a transaction's calls may wait for each other."""

    def __init__(self, outbox: Outbox, sender: Sender) -> None:
        self._outbox = outbox
        self._sender = sender
        self._callers: dict[_GatherKey, list[_Caller]] = {}
        self._join_tasks: set[asyncio.Task[None]] = set()

    def enqueue(
        self, messages: Sequence[Outgoing], *, using: str, on_stored: Hook | None = None
    ) -> Joins:
        """Send messages once the transaction on the database `using` commits; outside of one, now.

        Returns the calls that have joined others. `on_stored` is called with them before the
        messages are sent, and after their records are written where these are in the same
        database. Raises EnqueueError for direct messages that were not accepted, if there is no
        transaction; UniqueConflict and UniqueKeyBusy for unique calls; and whatever `on_stored`
        raises.
        """
        is_unique = _is_unique(messages)
        # A unique call is announced once it is known to be new.
        if hooks.enqueued and not is_unique:
            messages = announce(messages)
        return self._enqueue(messages, is_unique, using=using, on_stored=on_stored)

    def _enqueue(
        self,
        messages: Sequence[Outgoing],
        is_unique: bool,
        *,
        using: str,
        on_stored: Hook | None = None,
    ) -> Joins:
        """Store and send messages that are announced already, except for unique calls."""
        connection = connections[using]
        # Records in another database can't join this transaction: they are stored after it.
        is_stored = using == self._outbox.alias
        if is_stored and self.joins_records and joining.may_wait(connection, messages):
            self._hand_over_later(connection, messages, is_stored=False)
            joining.write_in_time(connection)
            if on_stored is not None:
                on_stored(NO_JOINS)
            return NO_JOINS
        joins = NO_JOINS
        if is_unique:
            self._check_database(messages, connection)
            messages, joins = self._store_unique(messages)
            is_stored = True
        elif is_stored:
            self.store(messages)
        if on_stored is not None:
            on_stored(joins)
        if messages:
            self._hand_over_later(connection, messages, is_stored=is_stored)
        return joins

    def _hand_over_later(
        self, connection: BaseDatabaseWrapper, messages: Sequence[Outgoing], *, is_stored: bool
    ) -> None:
        """Hand messages over after the commit; without a transaction, now."""
        hand_over = find_joinable(connection, self)
        if hand_over is not None:
            hand_over.add(messages, is_stored=is_stored)
            return
        hand_over = self.make_hand_over(connection, messages, is_stored=is_stored)
        if connection.connection is None and not connection.in_atomic_block:
            # on_commit() would open a connection only to find no transaction on it.
            hand_over()
        else:
            transaction.on_commit(hand_over, using=connection.alias)

    def _check_database(
        self, messages: Sequence[Outgoing], connection: BaseDatabaseWrapper
    ) -> None:
        """Raise ImproperlyConfigured where unique calls can't be stored in their transaction."""
        alias = self._outbox.alias
        if connection.alias == alias or not connection.in_atomic_block:
            return
        raise ImproperlyConfigured(
            f"A call of {messages[0].message.task_name} is unique, and was made in a transaction "
            f"on the database {connection.alias!r}. The records are in {alias!r}, so its key can't "
            f"be checked before the commit. Make the call outside of that transaction, or in one "
            f"on {alias!r}, with using(using={alias!r})."
        )

    def _store_unique(self, messages: Sequence[Outgoing]) -> Stored:
        """Write the records of durable messages, some unique; announce the new unique ones."""
        unique = [each for each in messages if each.message.unique]
        with self._all_or_none(unique):
            self.store([each for each in messages if not each.message.unique])
            joined = self.insert_unique(unique)
            joins = {each.call: each for each in joined}
            new = [each for each in unique if each.message.invocation_id not in joins]
            announced = announce(new)
            changed = [each for each, before in zip(announced, new, strict=True) if each != before]
            if changed:
                self._outbox.write_headers(changed)
        by_id = {each.message.invocation_id: each for each in announced}
        to_send = [
            by_id.get(each.message.invocation_id, each)
            for each in messages
            if each.message.invocation_id not in joins
        ]
        replaced = [each for each in joined if each.replaced and self.sends_again(each)]
        return Stored([*to_send, *(each.replaced for each in replaced if each.replaced)], joins)

    def _all_or_none(self, messages: Sequence[Outgoing]) -> AbstractContextManager[None]:
        """Return a transaction for calls of which one may refuse all, or that hooks may change."""
        may_refuse = len(messages) > 1 and any(each.on_conflict == "raise" for each in messages)
        if may_refuse or hooks.enqueued:
            return transaction.atomic(using=self._outbox.alias)
        return nullcontext()

    async def aenqueue(
        self, messages: Sequence[Outgoing], *, using: str, on_stored: Hook | None = None
    ) -> Joins:
        """See enqueue().

        Calls that arrive during a hop to the connection's thread share the next hop. Raises
        ImproperlyConfigured under gevent.
        """
        check_event_loops()
        loop = asyncio.get_running_loop()
        if _is_unique(messages):
            # Alone: its error is its caller's only, and its hooks run in its caller's context.
            caller = _Caller(messages, on_stored, loop.create_future())
            self._start(loop, self._store_and_send([caller], using))
            return await caller.done
        if hooks.enqueued:
            messages = await aannounce(messages)
        # Concurrent calls share a hop and an INSERT, instead of queueing for the thread singly.
        key = (loop, SyncToAsync.thread_sensitive_context.get(None), using)
        caller = _Caller(messages, on_stored, loop.create_future())
        if key in self._callers:
            self._callers[key].append(caller)
        else:
            self._callers[key] = [caller]
            self._start(loop, self._join(key))
        return await caller.done

    def _start(self, loop: asyncio.AbstractEventLoop, storing: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(storing)
        self._join_tasks.add(task)
        task.add_done_callback(self._join_tasks.discard)

    async def _join(self, key: "_GatherKey") -> None:
        await self._store_and_send(self._callers.pop(key), key[2])

    async def _store_and_send(self, callers: "Sequence[_Caller]", using: str) -> None:
        try:
            to_send = await sync_to_async(self._join_or_store)(callers, using)
            failures = await self.asend_stored(to_send) if to_send else {}
        except TasksFailed as failed:
            for caller in callers:
                caller.finish({}, failed)
        except BaseException as error:
            for caller in callers:
                caller.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            for caller in callers:
                caller.finish(failures)

    def _join_or_store(self, callers: "Sequence[_Caller]", using: str) -> Sequence[Outgoing]:
        """Join the transaction, or store the messages; return those that are to be sent now.

        Runs on the connection's thread.
        """
        messages: Sequence[Outgoing] = [each for caller in callers for each in caller.messages]

        def on_stored(joins: Joins) -> None:
            for caller in callers:
                caller.call_stored_hook(joins)

        is_unique = _is_unique(messages)
        if connections[using].in_atomic_block:
            self._enqueue(messages, is_unique, using=using, on_stored=on_stored)
            return ()
        joins = NO_JOINS
        if is_unique:
            messages, joins = self._store_unique(messages)
        else:
            self.store(messages)
        on_stored(joins)
        return self._hand_over(self.select_sendable(messages))

    def make_hand_over(
        self, connection: BaseDatabaseWrapper, messages: Sequence[Outgoing], *, is_stored: bool
    ) -> HandOver:
        """Return the hook for a transaction on this connection."""
        return HandOver(self, messages, is_stored=is_stored)

    def send_now(self, messages: Sequence[Outgoing]) -> None:
        """Send messages without waiting for a commit, and mark the stored ones as sent.

        Raises EnqueueError for direct messages that were not accepted.
        """
        sendable = self._hand_over(self.select_sendable(messages))
        if not sendable:
            return
        failed: TasksFailed | None = None
        failures: dict[UUID, str] = {}
        try:
            failures = self._sender.send(sendable)
        except TasksFailed as error:
            failed = error
        if failed is not None:  # outside of the except block, which would add its own context
            failed.raise_for(sendable)
            return
        with interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
            self._mark_sent(sendable, failures)
        if failures:
            _raise_for_direct(sendable, failures)

    async def asend_now(self, messages: Sequence[Outgoing]) -> None:
        """See send_now()."""
        failed: TasksFailed | None = None
        failures: dict[UUID, str] = {}
        try:
            failures = await self.asend_stored(messages)
        except TasksFailed as error:
            failed = error
        if failed is not None:
            failed.raise_for(messages)
        _raise_for_direct(messages, failures)

    async def asend_released(self, released: Sequence[Released]) -> None:
        """See send_released(). Sends page by page; after SEND_RELEASED_FOR_S, the relay does."""
        until = time.monotonic() + SEND_RELEASED_FOR_S
        pages = self._pages_of(released)
        while messages := await call_database(lambda: next(pages, ())):
            await self.asend_stored(messages)
            if time.monotonic() > until:
                return

    def send_released(self, released: Sequence[Released]) -> None:
        """Send steps after the commit of the transaction that has released them.

        A page of them at most, as their writer may wait for it: the relay sends the rest.
        """
        connection = connections[self._outbox.alias]
        messages: list[Outgoing] = []
        for page in self._pages_of(released):
            messages += page
            if len(messages) >= RELEASED_PAGE:
                break
        if messages:
            hand_over = self.make_hand_over(connection, messages, is_stored=True)
            hand_over.is_open = False  # nobody else's messages may share the fate of these
            # Robust: what fails here is the relay's, and must not fail who has written the end.
            transaction.on_commit(hand_over, using=connection.alias, robust=True)

    def find_released(self, released: Sequence[Released]) -> Iterator[Outgoing]:
        """Yield the messages of steps of workflows that were released."""
        for page in self._pages_of(released):
            yield from page

    def _pages_of(self, released: Sequence[Released]) -> Iterator[Sequence[Outgoing]]:
        for each in released:
            after = each.first - 1
            while page := self._outbox.find_released(each, after=after, limit=RELEASED_PAGE):
                yield page
                if each.run_id is not None:
                    break
                place = page[-1].message.place
                assert place is not None
                after = place.step

    def enqueue_workflow(self, workflow: StoredWorkflow, *, using: str) -> None:
        """Store a workflow in the transaction on the database `using`, and send its first steps.

        Outside of a transaction, or where the records are in another database, it is stored in one
        of its own, after the commit.
        """
        workflow = _announced(workflow)
        steps = workflow.steps
        first = [step.outgoing for step in steps if not step.waits]
        connection = connections[using]
        if not all(step.outgoing.message.durable for step in steps):  # All of them are dropped.
            self._hand_over_later(connection, first, is_stored=True)
        elif using == self._outbox.alias:
            self.store_workflow(workflow)
            if first:
                self._hand_over_later(connection, first, is_stored=True)
        else:
            transaction.on_commit(partial(self._store_and_begin, workflow, first), using=using)

    def add_steps(self, addition: StoredWorkflow) -> None:
        """Store steps that the current run adds to its workflow; send the first after its commit.

        The transaction is on the database of the records.
        """
        addition = _announced(addition)
        self._outbox.add_steps(addition)
        self.send_after_commit([step.outgoing for step in addition.steps if not step.waits])

    def send_after_commit(self, messages: Sequence[Outgoing]) -> None:
        """Send stored messages after the commit of the transaction in which they were changed."""
        self._hand_over_later(connections[self._outbox.alias], messages, is_stored=True)

    def _store_and_begin(self, workflow: StoredWorkflow, first: Sequence[Outgoing]) -> None:
        self.store_workflow(workflow)
        self.send_now(first)

    async def aenqueue_workflow(self, workflow: StoredWorkflow, *, using: str) -> None:
        """See enqueue_workflow()."""
        check_event_loops()
        await sync_to_async(self.enqueue_workflow)(workflow, using=using)

    def store_workflow(self, workflow: StoredWorkflow) -> None:
        """Write a workflow and the records of its steps."""
        self._outbox.insert_workflow(workflow)

    async def asend_stored(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """Send messages and mark the stored ones as sent.

        Returns the reason for each message that was not accepted, by invocation id. The relay sends
        the stored ones among these later.
        """
        sendable = self.select_sendable(messages)
        failures = await self._sender.asend(sendable)
        if any(outgoing.message.durable for outgoing in sendable):
            await call_database(self._mark_sent, sendable, failures)
        return failures

    def _hand_over(self, messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Hand messages over to be sent in the background; return those that must be waited for.

        Direct messages must be, and all that are called beside them: on a FIFO queue they keep
        their order.
        """
        if not all(each.message.durable for each in messages) or not self._outbox.is_shared():
            return messages
        to_queues = [each for each in messages if each.look.is_sent]
        if not to_queues or not self._sender.hand_over(to_queues):
            return messages
        return [each for each in messages if not each.look.is_sent]

    def select_sendable(self, messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Return the messages that are sent now. The others wait in their records for the relay."""
        return [each for each in messages if not (each.waits and self._outbox.can_rebuild(each))]

    def waits_for_commit(self, invocation_id: UUID) -> bool:
        """Return whether a call, or a workflow with this id, waits for a commit of this thread."""
        return any(
            outgoing.message.invocation_id == invocation_id
            or (
                outgoing.message.place is not None
                and outgoing.message.place.workflow_id == invocation_id
            )
            for connection in connections.all()
            for hand_over in hand_overs_on(connection)
            for outgoing in hand_over.messages
        )

    def insert_unique(self, messages: Sequence[Outgoing]) -> Sequence[Joined]:
        """Write the QUEUED records of unique messages, and return those that join others."""
        return self._outbox.insert_unique(messages)

    def sends_again(self, joined: Joined) -> bool:
        """Return whether the message of a call that was replaced must be sent once more.

        One that comes too early goes back to its queue, or waits in its row.
        """
        return joined.is_earlier

    def store(self, messages: Sequence[Outgoing], ages_s: Sequence[float] = ()) -> None:
        """Write the QUEUED records of the durable messages.

        `ages_s` says how long ago each was called; without it, they are called now.
        """
        if ages_s:  # only durable ones wait for others
            self._outbox.insert_queued(messages, ages_s)
        elif durable := [outgoing for outgoing in messages if outgoing.message.durable]:
            self._outbox.insert_queued(durable)

    def _mark_sent(self, messages: Sequence[Outgoing], failures: dict[UUID, str]) -> None:
        """Mark the accepted messages as sent; log the others, which the relay sends."""
        stored = [each for each in messages if each.message.durable]
        unsent = [each for each in stored if each.message.invocation_id in failures]
        for each in unsent:
            id = each.message.invocation_id
            logger.error("%s was stored and could not be sent yet: %s", id, failures[id])
        sent = [each for each in stored if each.message.invocation_id not in failures]
        update_records(self._outbox, sent, unsent)


class _Caller:
    """One aenqueue() call that waits for its hop, and the error that it gets."""

    def __init__(
        self, messages: Sequence[Outgoing], on_stored: Hook | None, done: "asyncio.Future[Joins]"
    ) -> None:
        self.messages = messages
        self.done = done
        self._joins = NO_JOINS
        self._on_stored = on_stored
        self._hook_error: Exception | None = None

    def call_stored_hook(self, joins: Joins) -> None:
        """Call the hook on the connection's thread; keep its error for this caller alone."""
        self._joins = joins
        try:
            if self._on_stored is not None:
                self._on_stored(joins)
        except Exception as error:
            self._hook_error = error

    def finish(self, failures: dict[UUID, str], failed: TasksFailed | None = None) -> None:
        try:
            _raise_for_direct(self.messages, failures)
            if self._hook_error is not None:
                raise self._hook_error
            if failed is not None:
                failed.raise_for(self.messages)
        except BaseException as error:
            self.fail(error)
        else:
            if not self.done.done():
                self.done.set_result(self._joins)

    def fail(self, error: BaseException) -> None:
        if self.done.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.done.cancel()
        else:
            self.done.set_exception(error)


def _announced(workflow: StoredWorkflow) -> StoredWorkflow:
    """Announce the steps of a workflow, and return it with the headers that hooks have added."""
    announced = announce([step.outgoing for step in workflow.steps])
    steps = [
        StoredStep(outgoing, step.waits)
        for step, outgoing in zip(workflow.steps, announced, strict=True)
    ]
    return replace(workflow, steps=steps)


def _is_unique(messages: Sequence[Outgoing]) -> bool:
    """Return whether any of these messages is stored with a unique key."""
    return any(each.message.unique for each in messages)


_GatherKey = tuple[asyncio.AbstractEventLoop, Any, str]
"""The loop, the thread-sensitive context and the database of calls that can share a hop."""


def _raise_for_direct(messages: Sequence[Outgoing], failures: dict[UUID, str]) -> None:
    direct_failures = {
        each.message.invocation_id: failures[each.message.invocation_id]
        for each in messages
        if not each.message.durable and each.message.invocation_id in failures
    }
    if direct_failures:
        raise EnqueueError(direct_failures)
