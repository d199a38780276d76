"""The composition root: from the settings to the wired objects of this process.

Everything here is made at first use, and anew after a fork: a child must share neither the event
loop nor the sockets of its parent.
"""

import asyncio
import atexit
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections

from . import conf, registry
from .context import TaskContext
from .core.message import Outgoing
from .enqueue.dispatcher import Dispatcher
from .enqueue.modes import ModeSender
from .enqueue.on_commit import Enqueuer, Sender
from .enqueue.portal import Portal
from .enqueue.relay import Relay
from .enqueue.transports.aws import AwsClient, RequestFailed
from .enqueue.transports.batch import DirectBatchTransport, JobQueue, ViaDefaultQueue
from .enqueue.transports.database import DatabaseTransport
from .enqueue.transports.sqs import SQSTransport, client_options
from .errors import Retry
from .place import worker_id
from .ports import Transport

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from .execution.attempt import Attempt, Run
    from .execution.executor import Executor
    from .execution.lanes import Lanes
    from .execution.locks import SingletonLocks
    from .execution.process_pool import ProcessPool
    from .execution.sources import Source
    from .local.workers import LocalWorkers
    from .store import RecordStore
    from .worker import Worker

SUBMIT_AGAIN_S: Final = 10
"""After AWS Batch has not taken a job, and may yet."""


class Runtime:
    """The objects of one process, each made once."""

    def __init__(self) -> None:
        self.portal = Portal()
        self._clients: dict[str, AwsClient] = {}
        self._by_queue: dict[str, Transport] = {}
        self._settings: conf.Settings | None = None
        self._local_workers: LocalWorkers | None = None

    @property
    def attempt_class(self) -> "type[Attempt]":
        """Of the attempts that are made here."""
        from .execution.attempt import Attempt

        return Attempt

    @cached_property
    def store(self) -> "RecordStore":
        """Every statement about records."""
        from .store import RecordStore

        return RecordStore(lambda: conf.current().table_queues(), worker_id=worker_id())

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """The one dispatcher, on the portal's loop."""
        return Dispatcher(self.transport)

    @cached_property
    def sender(self) -> Sender:
        """Knows the modes."""
        return ModeSender(
            self.portal, self.dispatcher, run_now=self._run_now, wake=self._wake_local_workers
        )

    @cached_property
    def enqueuer(self) -> Enqueuer:
        """The door of the way out."""
        return Enqueuer(self.store, self.sender)

    @cached_property
    def relay(self) -> Relay:
        """Sends what was left."""
        return Relay(self.store, self.sender.asend)

    @cached_property
    def locks(self) -> "SingletonLocks":
        """The locks of singletons."""
        from .execution.locks import SingletonLocks

        return SingletonLocks(self.store, cache_alias=lambda: conf.current().singleton_cache)

    def transport(self, queue: str) -> Transport:
        """The transport of a queue. Raises ImproperlyConfigured for an unknown one."""
        settings = conf.current()
        if settings is not self._settings:
            self._settings, self._by_queue = settings, {}
        if queue not in self._by_queue:
            self._by_queue[queue] = self._make_transport(settings.queue(queue), settings)
        return self._by_queue[queue]

    async def submit_job(self, queue_name: str, body: str) -> str:
        """Submit a job for a message of an AWS Batch queue; return the job's id.

        Raises ImproperlyConfigured for another kind of queue, Retry where AWS may yet take it.
        """
        settings = conf.current()
        queue = settings.queue(queue_name)
        if not isinstance(queue, conf.BatchQueue):
            raise ImproperlyConfigured(f"The queue {queue_name!r} is not AWS Batch's.")
        try:
            return await self.portal.acall(self._job_queue(queue, settings).submit, body)
        except RequestFailed as error:
            if error.failure.retryable:
                raise Retry(str(error), delay=SUBMIT_AGAIN_S) from error
            raise

    async def postpone(self, queue_arn: str, receipt_handle: str, seconds: float) -> None:
        """Make a received message visible in so many seconds, where its queue is one of ours."""
        sqs_name = queue_arn.rpartition(":")[2]
        for name, queue in conf.current().queues.items():
            if isinstance(queue, conf.SQSQueue) and queue.queue_url.endswith(f"/{sqs_name}"):
                transport = self.transport(name)
                assert isinstance(transport, SQSTransport)
                await self.portal.acall(transport.postpone, receipt_handle, seconds)
                return

    def worker(
        self,
        queues: Collection[str],
        *,
        once: bool = False,
        drain_s: float,
        concurrency: int | None = None,
        processes: int | None = None,
    ) -> "tuple[Worker, Executor]":
        """A new worker for these queues, on the running loop, which the portal gets too.

        Raises ImproperlyConfigured for a queue that is not there or that no worker consumes.
        """
        from .worker import Worker

        settings = conf.current()
        sources = self._sources([settings.queue(name) for name in queues], settings, once=once)
        self.portal.adopt(asyncio.get_running_loop())
        concurrency = concurrency or settings.concurrency
        processes = processes or settings.processes
        executor = self.executor(concurrency=concurrency, processes=processes)
        worker = Worker(
            sources,
            executor,
            relay=self.relay.run_once,
            capacity=concurrency + processes,
            drain_s=drain_s,
            once=once,
        )
        return worker, executor

    def _sources(
        self, queues: Sequence[conf.Queue], settings: conf.Settings, *, once: bool
    ) -> "list[Source]":
        from .execution.sources import ONCE_WAIT_S, WAIT_S, DatabaseSource, SqsSource

        sources: list[Source] = []
        of_the_table = [queue.name for queue in queues if settings.is_table(queue)]
        if of_the_table:
            sources.append(DatabaseSource(of_the_table, self.store))
        for queue in queues:
            if settings.is_table(queue):
                continue
            if isinstance(queue, conf.SQSQueue):
                call = self._sqs_client(queue, settings).call
                wait_s = ONCE_WAIT_S if once else WAIT_S
                sources.append(SqsSource(queue.queue_url, call, wait_s=wait_s))
            elif isinstance(queue, conf.BatchQueue):
                raise ImproperlyConfigured(
                    f"The queue {queue.name!r} is AWS Batch's, whose jobs no worker consumes."
                )
        return sources

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
            records=self.store,
            settings=conf.current,
            resolve=registry.resolve,
            make_attempt=self.attempt,
            send_stored=self._send_stored,
            lanes=lanes,
            processes=processes,
        )

    def attempt(self, run: "Run", metadata: Mapping[str, Any]) -> "tuple[Attempt, TaskContext]":
        """One attempt of a run, and what its task may know of it."""
        from .execution.attempt import context_of

        task = registry.resolve(run.message.task_name, run.message.backend)
        attempt = self.attempt_class(run, task, records=self.store, lock=self.locks)
        return attempt, context_of(run, metadata, records=self.store)

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

    async def aclose(self) -> None:
        """See close(). For who has lent the portal its loop."""
        await self.disconnect()
        await asyncio.to_thread(self.portal.close)

    async def _drain(self) -> None:
        await self.dispatcher.drain()
        for client in self._clients.values():
            await client.aclose()

    async def _send_stored(self, outgoing: Outgoing) -> None:
        await self.enqueuer.asend_stored([outgoing])

    def _make_transport(self, queue: conf.Queue, settings: conf.Settings) -> Transport:
        if isinstance(queue, conf.SQSQueue):
            client = self._sqs_client(queue, settings)
            return SQSTransport(queue.queue_url, client, settings.signing_key)
        if isinstance(queue, conf.BatchQueue):
            return self._make_batch_transport(queue, settings)
        return DatabaseTransport()

    def _make_batch_transport(self, queue: conf.BatchQueue, settings: conf.Settings) -> Transport:
        in_table = settings.is_table(settings.queue("default"))
        store = sync_to_async(self._store_on_a_thread) if in_table else None
        via_default = ViaDefaultQueue(self.transport("default"), store)
        if not queue.direct:
            return via_default
        return DirectBatchTransport(self._job_queue(queue, settings), via_default)

    def _store_on_a_thread(self, messages: Sequence[Outgoing]) -> None:
        """Whose connections no request and no task takes care of."""
        close_old_connections()
        try:
            self.store.insert_queued(messages)
        finally:
            close_old_connections()

    def _job_queue(self, queue: conf.BatchQueue, settings: conf.Settings) -> JobQueue:
        region = {"region_name": queue.region} if queue.region else {}
        options = region | dict(settings.aws)
        client = self._client("batch", options)
        arns = (queue.job_queue_arn, queue.job_definition_arn)
        return JobQueue(*arns, client, settings.signing_key)

    def _sqs_client(self, queue: conf.SQSQueue, settings: conf.Settings) -> AwsClient:
        return self._client("sqs", client_options(queue.queue_url, settings.aws))

    def _client(self, service: str, options: Mapping[str, Any]) -> AwsClient:
        """Queues of one service and region share a client."""
        key = f"{service} {sorted(options.items(), key=lambda item: item[0])!r}"
        return self._clients.setdefault(key, AwsClient(service, options))

    def _wake_local_workers(self) -> None:
        from .local.workers import LocalWorkers

        if self._local_workers is None:
            self._local_workers = LocalWorkers(conf.current().local_workers)
        self._local_workers.wake()

    def _run_now(self, outgoing: Outgoing) -> None:
        from .execution.eager import EagerRunner

        EagerRunner(self.store, registry.resolve, self.attempt).run(outgoing)


class _Process:
    """What this process has made; a forked child starts with none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runtime: Runtime | None = None
        self.abandoned: list[Runtime] = []

    def current(self) -> Runtime:
        if self.runtime is None:
            with self.lock:
                if self.runtime is None:
                    self.runtime = Runtime()
        return self.runtime

    def take(self) -> Runtime | None:
        runtime, self.runtime = self.runtime, None
        return runtime

    def start_anew(self) -> None:
        self.lock = threading.Lock()
        # Kept, so that nothing of the parent's is closed or complained about by the collector.
        if (runtime := self.take()) is not None:
            self.abandoned.append(runtime)


_process = _Process()


def current() -> Runtime:
    """This process's runtime."""
    return _process.current()


@contextmanager
def replaced_by(other: Runtime) -> Iterator[None]:
    """Let `other` be this process's runtime in the body; for tests."""
    before, _process.runtime = _process.runtime, other
    try:
        yield
    finally:
        _process.runtime = before


def enqueuer() -> Enqueuer:
    """The door of the way out."""
    return current().enqueuer


def store() -> "RecordStore":
    """The records."""
    return current().store


def work_in_a_process(pipe: "Connection") -> None:
    """What a worker process does."""
    from .cold_start.memory_limit import limit_memory
    from .execution.process_main import serve

    limit_memory()
    serve(pipe, lambda run, metadata: current().attempt(run, metadata))


def close() -> None:
    """Send what is still open and close all connections; a later call starts anew."""
    if (runtime := _process.take()) is not None:
        runtime.close()


async def aclose(runtime: Runtime) -> None:
    """See close(). For who has kept a runtime, which need not be the process's any more."""
    if runtime is _process.runtime:
        _process.take()
    await runtime.aclose()


atexit.register(close)
os.register_at_fork(after_in_child=_process.start_anew)
