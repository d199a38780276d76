"""The composition root: from the settings to the wired objects of this process.

Everything here is made at first use, and anew after a fork: a child must share neither the event
loop nor the sockets of its parent.
"""

import atexit
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from uuid import UUID

from django.db import connections

from . import conf, interrupts, pools, registry
from .core.message import Outgoing
from .core.signature import Signer
from .enqueue.dispatcher import Dispatcher
from .enqueue.local_workers import LocalWorkers
from .enqueue.modes import ModeSender
from .enqueue.on_commit import Enqueuer, Sender
from .enqueue.portal import Portal
from .enqueue.relay import Relay
from .ports import Transport
from .queues.aws.client import AwsClient
from .threads import in_reserved_thread

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from .execution.attempt import MakeAttempt
    from .execution.executor import Executor
    from .execution.finishing import Finisher
    from .execution.lanes import Lanes
    from .execution.locks import SingletonLocks
    from .execution.process_pool import ProcessPool
    from .records.claims import RecordClaims
    from .records.outbox import RecordOutbox
    from .records.table_queue import RecordTableQueue

T = TypeVar("T")

MAX_WORKER_ID: Final = 200
"""Characters."""


class Runtime:
    """The objects of one process, each made once. It is the Wiring of queues."""

    def __init__(self) -> None:
        self.portal = Portal()
        self._clients: dict[str, AwsClient] = {}
        self._by_queue: dict[str, Transport] = {}
        self._settings: conf.Settings | None = None
        self._local_workers: LocalWorkers | None = None

    @cached_property
    def outbox(self) -> "RecordOutbox":
        """The records, as the way out needs them."""
        from .records.outbox import RecordOutbox

        return RecordOutbox(lambda queue: conf.current().look_terms(queue))

    @cached_property
    def claims(self) -> "RecordClaims":
        """The records, as the way in needs them."""
        from .records.claims import RecordClaims

        return RecordClaims(worker_id())

    @property
    def table_queue(self) -> "RecordTableQueue":
        """The records, as queues that are the table need them. It keeps nothing to keep it for."""
        from .records.table_queue import RecordTableQueue

        return RecordTableQueue()

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """The one dispatcher, on the portal's loop."""
        return Dispatcher(self.transport, is_left=self._is_left)

    @cached_property
    def sender(self) -> Sender:
        """Knows the modes."""
        return ModeSender(
            self.portal, self.dispatcher, run_now=self._run_now, wake=self._wake_local_workers
        )

    @cached_property
    def enqueuer(self) -> Enqueuer:
        """The door of the way out."""
        return Enqueuer(self.outbox, self.sender)

    @cached_property
    def relay(self) -> Relay:
        """Sends what was left."""
        return Relay(self.outbox, self.sender.asend_patiently)

    @cached_property
    def finisher(self) -> "Finisher":
        """The door for the end of every run."""
        from .execution.finishing import Finisher

        return Finisher(self.claims)

    @cached_property
    def locks(self) -> "SingletonLocks":
        """The locks of singletons."""
        from .execution.locks import SingletonLocks
        from .records.locks import RecordLocks

        return SingletonLocks(RecordLocks(), cache_alias=lambda: conf.current().singleton_cache)

    # What queues ask of their process

    @property
    def aws_options(self) -> Mapping[str, Any]:
        """See queues.base.Wiring."""
        return conf.current().aws

    def signer(self, audience: str) -> Signer | None:
        """See queues.base.Wiring."""
        return conf.current().signer(audience)

    def transport(self, queue: str) -> Transport:
        """See queues.base.Wiring. Made anew when the settings change."""
        settings = conf.current()
        if settings is not self._settings:
            self._settings, self._by_queue = settings, {}
        if queue not in self._by_queue:
            self._by_queue[queue] = settings.queue(queue).make_transport(self)
        return self._by_queue[queue]

    def client(
        self,
        service: str,
        options: Mapping[str, Any],
        *,
        waits_s: float = 0,
        has_lineage: bool = True,
    ) -> AwsClient:
        """See queues.base.Wiring."""
        in_order = sorted(options.items(), key=lambda item: item[0])
        key = f"{service} {waits_s} {has_lineage} {in_order!r}"
        if key not in self._clients:
            client = AwsClient(service, options, waits_s=waits_s, has_lineage=has_lineage)
            self._clients[key] = client
        return self._clients[key]

    def is_table(self, queue: str) -> bool:
        """See queues.base.Wiring."""
        return conf.current().queue(queue).is_table

    async def store(self, messages: Sequence[Outgoing]) -> None:
        """See queues.base.Wiring."""
        await _ask_beside(lambda: self.outbox.insert_queued(messages))

    # The way in

    def executor(
        self, *, concurrency: int | None = None, processes: int | None = None
    ) -> "Executor":
        """A new executor, for a handler or a worker to keep; the settings say how large."""
        from .execution.lanes import Lanes
        from .execution.process_pool import ProcessPool

        settings = conf.current()
        return self.executor_of(
            Lanes(concurrency or settings.concurrency),
            ProcessPool(processes or settings.processes, work_in_a_process),
        )

    def executor_of(self, lanes: "Lanes", processes: "ProcessPool") -> "Executor":
        """A new executor that runs tasks in these."""
        from .execution.executor import Executor

        return Executor(
            finisher=self.finisher,
            settings=conf.current,
            resolve=registry.resolve,
            make_attempt=self.make_attempt,
            send_stored=self._send_stored,
            lanes=lanes,
            processes=processes,
        )

    @cached_property
    def make_attempt(self) -> "MakeAttempt":
        """Makes one attempt of a run, whose time begins then."""
        from .execution.attempt import Attempt

        return partial(Attempt, finisher=self.finisher, lock=self.locks)

    # Its end

    def close(self) -> None:
        """Send what is still open and close the connections."""
        if self._local_workers is not None:
            self._local_workers.close()
        if self.portal.has_thread:
            self.portal.call(self._drain)
            self.portal.close()

    async def disconnect(self) -> None:
        """Send what is still open and close the connections; they are opened again when used."""
        await self.portal.acall(self._drain)
        await in_reserved_thread(pools.close)

    async def aclose(self) -> None:
        """See close(). For callers that have lent the portal their loop."""
        await self.disconnect()
        await in_reserved_thread(self.portal.close)

    async def _drain(self) -> None:
        await self.dispatcher.drain()
        for client in self._clients.values():
            await client.aclose()

    async def _is_left(self, id: UUID) -> bool:
        return await _ask_beside(lambda: self.outbox.is_unsent(id))

    async def _send_stored(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        return await self.enqueuer.asend_stored(messages)

    def _wake_local_workers(self) -> None:

        if self._local_workers is None:
            self._local_workers = LocalWorkers(conf.current().local_workers)
        self._local_workers.wake()

    def _run_now(self, outgoing: Outgoing) -> None:
        from .execution.eager import EagerRunner

        EagerRunner(self.finisher, registry.resolve, self.make_attempt).run(outgoing)


class _Process:
    """What this process has made; a forked child starts with none."""

    lock = threading.Lock()
    runtime: Runtime | None = None
    abandoned: ClassVar[list[Runtime]] = []


def current() -> Runtime:
    """This process's runtime."""
    if _Process.runtime is None:
        with _Process.lock:
            if _Process.runtime is None:
                _Process.runtime = Runtime()
    return _Process.runtime


@contextmanager
def replaced_by(other: Runtime) -> Iterator[None]:
    """Let `other` be this process's runtime in the body; for tests."""
    before, _Process.runtime = _Process.runtime, other
    try:
        yield
    finally:
        _Process.runtime = before


def worker_id() -> str:
    """Which process this is, in words that lead to its logs.

    On Lambda the name of the log stream, one for each container; elsewhere HOST:PID.
    """
    log_stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
    return (log_stream or f"{socket.gethostname()}:{os.getpid()}")[:MAX_WORKER_ID]


async def _ask_beside(ask: Callable[[], T]) -> T:
    """Ask the records on a thread of our own: the caller's may be waiting for the answer."""

    def ask_and_close() -> T:
        try:
            with interrupts.interrupt_after(interrupts.LIBRARY_STATEMENT_LIMIT_S):
                return ask()
        finally:
            connections.close_all()

    return await in_reserved_thread(ask_and_close)


def work_in_a_process(pipe: "Connection") -> None:
    """What a worker process does."""
    from .cold_start.memory_limit import limit_memory
    from .execution.worker_process import serve

    limit_memory()
    serve(pipe, lambda: current().make_attempt)


def close() -> None:
    """Send what is still open and close all connections; a later call starts anew."""
    if (runtime := _detach()) is not None:
        runtime.close()


async def aclose(runtime: Runtime) -> None:
    """See close(). For callers that have kept a runtime; the process may have another by now."""
    if runtime is _Process.runtime:
        _detach()
    await runtime.aclose()


def _detach() -> Runtime | None:
    runtime, _Process.runtime = _Process.runtime, None
    return runtime


def _start_anew() -> None:
    """In a forked child."""
    _Process.lock = threading.Lock()
    # Kept, so that nothing of the parent's is closed or complained about by the collector.
    if (runtime := _detach()) is not None:
        _Process.abandoned.append(runtime)


atexit.register(close)
os.register_at_fork(after_in_child=_start_anew)
