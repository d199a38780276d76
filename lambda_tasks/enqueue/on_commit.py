"""Joins the caller's transaction: what is enqueued in it leaves after its commit, together.

A durable message is stored in the transaction itself; after the commit everything is sent and
what the queue accepted is marked as sent.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..core.message import Outgoing
from ..database_calls import call_database
from ..errors import EnqueueError
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S, interrupt_after
from ..ports import Outbox

logger = logging.getLogger("lambda_tasks")


Hook = Callable[[], None]


class Sender(Protocol):
    """Hands messages to their transport; returns the reason for each that was not accepted."""

    def send(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """From a thread without an event loop."""
        ...

    async def asend(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send()."""
        ...

    async def asend_patiently(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """See send(); for callers that have nothing else to do."""
        ...


class Enqueuer:
    """The door of the way out."""

    def __init__(self, outbox: Outbox, sender: Sender) -> None:
        self._outbox = outbox
        self._sender = sender
        self._gathering: dict[_GatherKey, list[_Caller]] = {}
        self._joining: set[asyncio.Task[None]] = set()

    def enqueue(
        self, messages: Sequence[Outgoing], *, using: str, stored: Hook | None = None
    ) -> None:
        """Send messages once the transaction on `using` commits, at once outside of one.

        `stored` is called once their records are written, before they are sent.
        Raises EnqueueError for direct messages that were not accepted, where it sends at once.
        """
        connection = connections[using]
        stored_at_once = using == self._outbox.alias
        if stored_at_once:
            self.store(messages)
        if stored is not None:
            stored()
        hand_over = _joinable(connection, self)
        if hand_over is not None:
            hand_over.add(messages, stored=stored_at_once)
            return
        hand_over = self.new_hand_over(connection, messages, stored=stored_at_once)
        if connection.connection is None and not connection.in_atomic_block:
            hand_over()  # on_commit() would open a connection, only to find no transaction on it
        else:
            transaction.on_commit(hand_over, using=using)

    async def aenqueue(
        self, messages: Sequence[Outgoing], *, using: str, stored: Hook | None = None
    ) -> None:
        """See enqueue().

        Calls that are made while a hop to the connection's thread is under way share the next.
        """
        loop = asyncio.get_running_loop()
        key = (loop, SyncToAsync.thread_sensitive_context.get(None), using)
        caller = _Caller(messages, stored, loop.create_future())
        if key in self._gathering:
            self._gathering[key].append(caller)
        else:
            self._gathering[key] = [caller]
            task = loop.create_task(self._join(key))
            self._joining.add(task)
            task.add_done_callback(self._joining.discard)
        await caller.done

    async def _join(self, key: "_GatherKey") -> None:
        callers = self._gathering.pop(key)
        try:
            left = await sync_to_async(self._join_or_store)(callers, key[2])
            failures = await self.asend_stored(left) if left else {}
        except BaseException as error:
            for caller in callers:
                caller.fail(error)
            if not isinstance(error, Exception):
                raise
        else:
            for caller in callers:
                caller.finish(failures)

    def _join_or_store(self, callers: "Sequence[_Caller]", using: str) -> Sequence[Outgoing]:
        """On the connection's thread: join its transaction, or give back what is to be sent."""
        messages = [outgoing for caller in callers for outgoing in caller.messages]

        def stored() -> None:
            for caller in callers:
                caller.tell_stored()

        if connections[using].in_atomic_block:
            self.enqueue(messages, using=using, stored=stored)
            return ()
        self.store(messages)
        stored()
        return messages

    def new_hand_over(
        self, connection: BaseDatabaseWrapper, messages: Sequence[Outgoing], *, stored: bool
    ) -> "HandOver":
        """For a transaction on this connection."""
        return HandOver(self, messages, stored=stored)

    def send_now(self, messages: Sequence[Outgoing]) -> None:
        """Send messages, whatever becomes of a transaction, and mark the stored ones as sent.

        Raises EnqueueError for direct ones that were not accepted.
        """
        leaving = self.leaving(messages)
        failures = self._sender.send(leaving)
        with interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
            self._mark_sent(leaving, failures)
        if failures:
            _raise_for_direct(leaving, failures)

    async def asend_now(self, messages: Sequence[Outgoing]) -> None:
        """See send_now()."""
        _raise_for_direct(messages, await self.asend_stored(messages))

    async def asend_stored(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        """Send messages and mark the stored ones as sent; the reasons why some were not accepted.

        A stored message that was not accepted is left to the relay.
        """
        leaving = self.leaving(messages)
        failures = await self._sender.asend(leaving)
        if any(outgoing.message.durable for outgoing in leaving):
            await call_database(self._mark_sent, leaving, failures)
        return failures

    def leaving(self, messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """The messages that are sent now: the others wait in their records for the relay."""
        return [each for each in messages if not (each.waits and self._outbox.can_rebuild(each))]

    def store(self, messages: Sequence[Outgoing]) -> None:
        """Write the QUEUED records of the durable ones."""
        if durable := [outgoing for outgoing in messages if outgoing.message.durable]:
            self._outbox.insert_queued(durable)

    def _mark_sent(self, messages: Sequence[Outgoing], failures: dict[UUID, str]) -> None:
        """After the send, so a failure here is only logged: the relay would send once more."""
        stored = [each for each in messages if each.message.durable]
        left = [each for each in stored if each.message.invocation_id in failures]
        for each in left:
            id = each.message.invocation_id
            logger.error("%s was stored and could not be sent yet: %s", id, failures[id])
        sent = [each for each in stored if each.message.invocation_id not in failures]
        try:
            if in_order := [each for each in left if each.look.in_order]:
                self._outbox.leave_to_relay(in_order)
            if sent:
                self._outbox.mark_sent(sent)
        except Exception:
            logger.exception("%d messages were sent and could not be marked as sent", len(sent))


class HandOver:
    """The on_commit hook of one transaction's neighbouring calls."""

    def __init__(self, enqueuer: Enqueuer, messages: Sequence[Outgoing], *, stored: bool) -> None:
        self.enqueuer = enqueuer
        self.is_open = True
        self.messages = list(messages)
        self._unstored = [] if stored else list(messages)

    def add(self, messages: Sequence[Outgoing], *, stored: bool) -> None:
        """Send these too; `stored` where their records have been written."""
        self.messages.extend(messages)
        if not stored:
            self._unstored.extend(messages)

    def __call__(self) -> None:
        """After the commit. Raises EnqueueError for direct messages that were not accepted."""
        self.is_open = False
        if self._unstored:
            self.enqueuer.store(self._unstored)
        self.enqueuer.send_now(self.messages)


class _Caller:
    """One aenqueue() call that waits."""

    def __init__(
        self, messages: Sequence[Outgoing], stored: Hook | None, done: "asyncio.Future[None]"
    ) -> None:
        self.messages = messages
        self.done = done
        self._stored = stored
        self._refusal: Exception | None = None

    def tell_stored(self) -> None:
        """On the connection's thread. What the hook raises is for this caller alone."""
        try:
            if self._stored is not None:
                self._stored()
        except Exception as error:
            self._refusal = error

    def finish(self, failures: dict[UUID, str]) -> None:
        try:
            _raise_for_direct(self.messages, failures)
            if self._refusal is not None:
                raise self._refusal
        except Exception as error:
            self.fail(error)
        else:
            if not self.done.done():
                self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        if self.done.done():
            return
        if isinstance(error, asyncio.CancelledError):
            self.done.cancel()
        else:
            self.done.set_exception(error)


_GatherKey = tuple[asyncio.AbstractEventLoop, Any, str]
"""What calls have in common that can share a hop: loop, thread-sensitive context, database."""


def _joinable(connection: BaseDatabaseWrapper, enqueuer: Enqueuer) -> HandOver | None:
    """The hook that these messages may join: the transaction's last, under the same savepoints.

    One that is not the last would overtake other hooks; one under other savepoints would be
    rolled back with them, or outlive them.
    """
    if not connection.run_on_commit or _is_under_a_test_case(connection):
        return None
    savepoints, hook = connection.run_on_commit[-1][:2]
    if not isinstance(hook, HandOver) or hook.enqueuer is not enqueuer or not hook.is_open:
        return None
    return hook if savepoints == set(connection.savepoint_ids) else None


def _is_under_a_test_case(connection: BaseDatabaseWrapper) -> bool:
    """Directly in a TestCase's own transaction each call has a hook of its own, so that
    captureOnCommitCallbacks sees the hook of a call that is made within it."""
    blocks = connection.atomic_blocks
    return bool(blocks) and getattr(blocks[-1], "_from_testcase", False)


def _raise_for_direct(messages: Sequence[Outgoing], failures: dict[UUID, str]) -> None:
    own = {
        each.message.invocation_id: failures[each.message.invocation_id]
        for each in messages
        if not each.message.durable and each.message.invocation_id in failures
    }
    if own:
        raise EnqueueError(own)
