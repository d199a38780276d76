"""The suite that every kind of queue has to pass: the library's own, and yours.

Derive a class of tests from it, in a file that pytest collects.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final

import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings

from .. import conf
from ..core.lifecycle import MAX_DELAY
from ..core.message import Message, Outgoing, decode
from ..core.signature import verify
from ..errors import MessageRefused, MessageTooLarge
from ..ports import DONE, Delivery, SendFailure, Settlement, Source, Transport
from ..queues import kinds
from ..queues.base import Queue
from ..runtime import Runtime

NAME: Final = "conforming"
"""The key of the queue in LAMBDA_TASKS_QUEUES."""

TASK: Final = "conformance.tasks.some"

KEY: Final = "a key of the conformance suite, of no worth"

AGAIN: Final = Settlement(is_final=False, retry_after_s=0.0, reason="conformance")
"""The settlement of a delivery that is to come again at once."""

LARGEST_BYTES: Final = 2**20
"""The largest message that the suite tries."""

LIMIT_S: Final = 60.0
"""Seconds for one test. A queue that needs more is stuck."""

TEXTS: Final = ("plain", 'quotes " and \\', "Zürich, 東京, 🙂", "line\nbreak\ttab", "")


class Room:
    """One queue with what a test does to it, on the event loop of the test."""

    def __init__(self, queue: Queue, runtime: Runtime) -> None:
        self.queue = queue
        self.runtime = runtime
        self.transport: Transport = runtime.transport(queue.name)
        self._sources: list[Source] = []

    def message(self, text: str = "", *, group: str | None = None, delay_s: int = 0) -> Outgoing:
        """Return a message for the queue, which carries a text."""
        message = Message(
            task_name=TASK,
            kwargs={"text": text},
            invocation_id=uuid.uuid4(),
            queue=self.queue.name,
            durable=self.queue.is_table,
            group_key=group,
        )
        look = conf.current().look_terms(self.queue.name)
        return Outgoing(message, message.encode(), self.queue.name, delay_s, look=look)

    async def send(self, *messages: Outgoing) -> None:
        """Send messages as the library does: within the limits of the transport."""
        if self.queue.is_table:
            await self.runtime.store(messages)
        size = self.transport.limits.max_entries
        if self.transport.limits.in_order:
            size = 1
        for start in range(0, len(messages), size):
            batch = messages[start : start + size]
            assert list(await self.transport.send(batch)) == [None] * len(batch)

    def source(self) -> Source:
        """Return a new source, as of another worker."""
        (source,) = kinds.make_sources([self.queue], self.runtime, once=True)
        self._sources.append(source)
        return source

    async def receive(self, source: Source, limit: int | None = None) -> list[Delivery]:
        """Receive once."""
        limit = source.max_batch if limit is None else limit
        batch = await source.receive(limit)

        def read() -> list[Delivery]:
            try:
                with batch as deliveries:
                    return list(deliveries)
            finally:
                connections.close_all()

        received = await sync_to_async(read)() if self.queue.is_table else _entered(batch)
        assert len(received) <= limit, f"receive({limit}) returned {len(received)} deliveries"
        return received

    async def receive_all(self, source: Source, number: int) -> list[Delivery]:
        """Receive until there are so many."""
        found: list[Delivery] = []
        while len(found) < number:
            found += await self.receive(source)
        return found

    async def close(self, source: Source) -> None:
        """Close a source, as a worker does at its end."""
        self._sources.remove(source)
        await source.aclose()

    async def aclose(self) -> None:
        """Close all that is still open."""
        for source in list(self._sources):
            await self.close(source)

    def read(self, delivery: Delivery) -> Message:
        """Return the message of a delivery, whose source and signature are checked."""
        assert delivery.source, "a delivery needs a source"
        if delivery.message is not None:
            return delivery.message
        assert self.queue.is_fed_by(delivery.source), (
            f"is_fed_by({delivery.source!r}) is False, but deliveries have this source"
        )
        keys = conf.current().signing_keys
        body = verify(delivery.body, keys=keys, audience=self.queue.audience, now=time.time())
        return decode(body, fallback_id=delivery.fallback_id)


def _entered(batch: Any) -> list[Delivery]:
    with batch as deliveries:
        return list(deliveries)


Scene = Callable[[Room], Coroutine[Any, Any, None]]


class QueueConformance:
    """Tests of a kind of queue. Give them a `queue_setting`, and mark the class for the database.

    ::

        @pytest.mark.django_db(transaction=True)
        class TestMyQueue(QueueConformance):
            @pytest.fixture
            def queue_setting(self, tmp_path):
                return {"kind": "shop.queues.DirectoryQueue", "path": str(tmp_path)}

    Each test needs an empty queue. What doesn't apply to the kind is skipped. All tests use only
    what the library itself uses.
    """

    slow_to_come_again: ClassVar[bool] = False
    """Whether a returned message may take longer than a few seconds, so that no test awaits it."""

    @pytest.fixture
    def queue_setting(self) -> Any:
        """Return the value of LAMBDA_TASKS_QUEUES for an empty queue."""
        raise NotImplementedError("Define the fixture queue_setting in your class.")

    @pytest.fixture
    def unreachable_setting(self) -> Any:
        """Return the setting of a queue whose server can't be reached; None for no such test."""
        return None

    log: pytest.LogCaptureFixture
    """The log of the test, in which a source tells what it could not do."""

    @pytest.fixture(autouse=True)
    def _setting(self, queue_setting: Any, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        self.log = caplog
        with _queues(queue_setting):
            yield

    # The setting

    def test_the_setting_gives_a_queue_of_its_name(self) -> None:
        """The queue knows its key, and its settings are well."""
        queue = conf.current().queue(NAME)

        assert isinstance(queue, Queue)
        assert queue.name == NAME
        assert queue.max_timeout_s > 0

    def test_an_unknown_option_is_refused_at_once(self, queue_setting: Any) -> None:
        """A typo in an option is a mistake in the settings, and names the setting."""
        if not isinstance(queue_setting, dict):
            pytest.skip("the setting is no dict")
        with _queues(queue_setting | {"optoin": 1}), pytest.raises(ImproperlyConfigured) as caught:
            conf.current()

        assert f"LAMBDA_TASKS_QUEUES['{NAME}']" in str(caught.value)

    def test_a_rate_is_part_of_any_setting(self, queue_setting: Any) -> None:
        """The option `rate` is the library's, and the kind does not see it."""
        if not isinstance(queue_setting, dict):
            pytest.skip("the setting is no dict")
        with _queues(queue_setting | {"rate": "5/s"}):
            assert conf.current().rate_of(NAME) is not None

    # The way out

    def test_the_limits_of_a_request_make_sense(self) -> None:
        """At least one message fits, and an ordered queue takes them in order."""

        async def scene(room: Room) -> None:
            limits = room.transport.limits
            assert limits.max_entries >= 1
            assert limits.max_bytes >= 1
            if room.queue.look_terms.in_order:
                assert limits.in_order, "an ordered queue needs BatchLimits(in_order=True)"

        self.play(scene)

    def test_a_transport_answers_each_message_of_a_batch(self) -> None:
        """An answer is None for a message that the queue has accepted."""

        async def scene(room: Room) -> None:
            n_messages = min(room.transport.limits.max_entries, 3)
            batch = [room.message(str(number)) for number in range(n_messages)]
            if room.queue.is_table:
                await room.runtime.store(batch)

            answers = await room.transport.send(batch)

            assert list(answers) == [None] * n_messages

        self.play(scene)

    def test_a_queue_takes_the_largest_message_that_it_says_it_takes(self) -> None:
        """What check_message() lets pass is accepted, and arrives whole."""

        async def scene(room: Room) -> None:
            sent = room.message("x" * _largest_text(room))
            await room.send(sent)
            if room.queue.has_workers:
                (delivery,) = await room.receive_all(room.source(), 1)
                assert room.read(delivery).kwargs in ({}, sent.message.kwargs)

        self.play(scene)

    def test_a_queue_that_cannot_be_reached_is_told_as_a_failure(
        self, unreachable_setting: Any
    ) -> None:
        """send() raises nothing: it returns failures that may pass."""
        if unreachable_setting is None:
            pytest.skip("there is no unreachable_setting")

        async def scene(room: Room) -> None:
            (answer,) = await room.transport.send([room.message()])
            assert isinstance(answer, SendFailure)
            assert answer.retryable
            assert answer.reason

        with _queues(unreachable_setting):
            self.play(scene)

    # The way in

    def test_what_is_sent_arrives_unchanged(self) -> None:
        """Any text arrives, once, with a source that the queue knows."""

        async def scene(room: Room) -> None:
            sent = [room.message(text) for text in TEXTS]
            await room.send(*sent)

            received = await room.receive_all(room.source(), len(sent))

            messages = {each.invocation_id: each for each in map(room.read, received)}
            assert messages.keys() == {each.message.invocation_id for each in sent}
            assert len({each.id for each in received}) == len(received)
            assert all(each.receives >= 1 for each in received)
            for each in sent:
                arrived = messages[each.message.invocation_id]
                assert arrived.task_name == TASK
                assert arrived.kwargs in ({}, each.message.kwargs)

        self.play_with_workers(scene)

    def test_an_empty_queue_returns_from_a_poll(self) -> None:
        """A worker with --once ends when there is nothing to do."""

        async def scene(room: Room) -> None:
            assert await room.receive(room.source()) == []

        self.play_with_workers(scene)

    def test_a_poll_returns_no_more_than_it_is_asked_for(self) -> None:
        """A worker with one free lane wants one message."""

        async def scene(room: Room) -> None:
            await room.send(*(room.message(str(number), group=str(number)) for number in range(3)))
            source = room.source()
            assert source.max_batch >= 1

            first = await room.receive(source, 1)

            assert len(first) <= 1

        self.play_with_workers(scene)

    def test_signed_messages_arrive_with_a_signature_for_this_queue(self) -> None:
        """With LAMBDA_TASKS_SIGNING_KEYS, what arrives is signed for the queue and no other."""

        async def scene(room: Room) -> None:
            if not room.queue.audience:
                pytest.skip("nobody else can put messages into the queue")
            sent = room.message("signed")
            await room.send(sent)

            (delivery,) = await room.receive_all(room.source(), 1)

            assert room.read(delivery).invocation_id == sent.message.invocation_id
            with pytest.raises(MessageRefused):
                verify(delivery.body, keys=[KEY], audience="another", now=time.time())

        with override_settings(LAMBDA_TASKS_SIGNING_KEYS=[KEY]):
            self.play_with_workers(scene)

    def test_what_is_acknowledged_does_not_come_again(self) -> None:
        """It is gone when the source is closed, for other workers, too."""

        async def scene(room: Room) -> None:
            await room.send(room.message("done"))
            source = room.source()
            (delivery,) = await room.receive_all(source, 1)

            source.settle(delivery.id, DONE)
            await room.close(source)

            assert not [each for each in self.log.records if each.levelno >= logging.WARNING]
            assert await room.receive(room.source()) == []

        self.play_with_workers(scene, is_carried=True)

    def test_what_is_returned_comes_again(self) -> None:
        """A message that can't run now is delivered again."""

        async def scene(room: Room) -> None:
            sent = room.message("again")
            await room.send(sent)
            source = room.source()
            (first,) = await room.receive_all(source, 1)
            if not first.is_redelivered or self.slow_to_come_again:
                pytest.skip("the queue delivers nothing again, or late")

            source.settle(first.id, AGAIN)

            (second,) = await room.receive_all(source, 1)
            assert room.read(second).invocation_id == sent.message.invocation_id
            assert second.fallback_id == first.fallback_id

        self.play_with_workers(scene, is_carried=True)

    def test_while_one_worker_has_a_message_another_does_not_get_it(self) -> None:
        """A source that says that it holds what it has received does so."""

        async def scene(room: Room) -> None:
            source = room.source()
            if not source.holds_received:
                pytest.skip("what is received is not held")
            await room.send(room.message("mine"))
            await room.receive_all(source, 1)

            assert await room.receive(room.source()) == []

        self.play_with_workers(scene, is_carried=True)

    def test_a_delayed_message_does_not_arrive_before_its_time(self) -> None:
        """A queue that says that it can delay messages does so."""

        async def scene(room: Room) -> None:
            if not room.queue.look_terms.ahead:
                pytest.skip("a message that is due later waits in its row")
            delay_s = round(MAX_DELAY / timedelta(seconds=1))
            await room.send(room.message("later", delay_s=delay_s))

            assert await room.receive(room.source()) == []

        self.play_with_workers(scene, is_carried=True)

    def test_messages_of_a_group_keep_their_order(self) -> None:
        """An ordered queue delivers a group in the order in which it was sent, with its key."""

        async def scene(room: Room) -> None:
            if not room.queue.look_terms.in_order:
                pytest.skip("the queue keeps no order")
            sent = [room.message(str(number), group="one") for number in range(3)]
            await room.send(*sent)
            source = room.source()
            received: list[Delivery] = []
            while len(received) < len(sent):
                for each in await room.receive(source):
                    received.append(each)
                    source.settle(each.id, DONE)

            ids = [room.read(each).invocation_id for each in received]
            assert ids == [each.message.invocation_id for each in sent]
            assert {each.order_key for each in received} == {received[0].order_key}
            assert received[0].order_key is not None

        self.play_with_workers(scene, is_carried=True)

    # How a test runs

    def play(self, scene: Scene) -> None:
        """Run a scene with a runtime of its own, within LIMIT_S."""

        async def run() -> None:
            runtime = Runtime()
            runtime.portal.adopt(asyncio.get_running_loop())
            room = Room(conf.current().queue(NAME), runtime)
            try:
                async with asyncio.timeout(LIMIT_S):
                    await scene(room)
            finally:
                await room.aclose()
                await runtime.aclose()

        asyncio.run(run())

    def play_with_workers(self, scene: Scene, *, is_carried: bool = False) -> None:
        """Run a scene if workers can consume the queue.

        With `is_carried`, only if messages are carried anywhere: where the table is the queue,
        claims do what such a scene looks for.
        """
        queue = conf.current().queue(NAME)
        if not queue.has_workers:
            with pytest.raises(ImproperlyConfigured):
                self.play(_consumed)
            pytest.skip("no worker consumes this kind of queue")
        if is_carried and queue.is_table:
            pytest.skip("the claim of the record decides it")
        self.play(scene)


async def _consumed(room: Room) -> None:
    room.source()


def _largest_text(room: Room) -> int:
    """Return the most characters, as a power of two, of a text that the queue takes."""
    size = LARGEST_BYTES
    is_signed = bool(conf.current().signing_keys)
    while size:
        each = room.message("x" * (size - 512 if size > 512 else 0))
        try:
            room.queue.check_message(each.message, each.body, is_signed=is_signed)
        except MessageTooLarge:
            size //= 2
        else:
            return len(each.message.kwargs["text"])
    pytest.fail("check_message() refuses every message")


def _queues(setting: Any) -> Any:
    """Return a context in which the queue is one of the project's."""
    queues: Sequence[tuple[str, Any]] = [("default", {"database": True}), (NAME, setting)]
    return override_settings(LAMBDA_TASKS_QUEUES=dict(queues))
