"""The composition root: it wires the objects of this process from the settings.

Each object is created at its first use, and again after a fork: a child must not share the event
loop or the sockets of its parent.
"""

import atexit
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from uuid import UUID

from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from . import conf, interrupts, pools, registry
from .core.message import Outgoing
from .core.signature import Signer
from .database_calls import call_database
from .declared_schedules import declared
from .enqueue.background import Background
from .enqueue.dispatcher import Dispatcher
from .enqueue.local_workers import LocalWorkers
from .enqueue.modes import ModeSender
from .enqueue.on_commit import Enqueuer, Sender
from .enqueue.portal import Portal
from .enqueue.relay import Relay
from .enqueue.relay_shifts import RelayShifts
from .enqueue.rounds import Round
from .enqueue.scheduler import Scheduler
from .ports import Released, Transport
from .queues.aws.client import AwsClient
from .records import releasing
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
    from .records.limits import RecordLimits
    from .records.outbox import RecordOutbox
    from .records.schedules import RecordSchedules
    from .records.table_queue import RecordTableQueue

T = TypeVar("T")

APP: Final = "lambda_tasks"
"""The name of the library's app in INSTALLED_APPS."""

ROLL_UP_LIMIT_S: Final = 60.0
"""Seconds for the counting of ends. It begins with no further minute after a few seconds."""

MAX_WORKER_ID: Final = 200
"""Longest worker id, in characters."""


class Runtime:
    """The objects of one process, each created once. Queues use it as their Wiring."""

    def __init__(self) -> None:
        # A TransactionTestCase may hide the app (`available_apps`), but not its models.
        if not apps.is_installed(APP) and not apps.all_models.get(APP):
            raise ImproperlyConfigured(
                f"{APP!r} is not in INSTALLED_APPS, so the records of tasks have no table. "
                "Add it there, and run `manage.py migrate`."
            )
        self.portal = Portal()
        self.waits_for_send = _Process.is_ending
        """Whether each send is waited for, as this process may end when its caller has returned."""
        self._clients: dict[str, AwsClient] = {}
        self._by_queue: dict[str, Transport] = {}
        self._settings: conf.Settings | None = None
        self._local_workers: LocalWorkers | None = None

    @cached_property
    def outbox(self) -> "RecordOutbox":
        """The records for sending: messages that are stored until their queue accepts them."""
        from .records.outbox import RecordOutbox

        return RecordOutbox(lambda queue: conf.current().look_terms(queue))

    @cached_property
    def claims(self) -> "RecordClaims":
        """The records for running: claims and the ends of runs."""
        from .records.claims import RecordClaims

        return RecordClaims(worker_id())

    @property
    def table_queue(self) -> "RecordTableQueue":
        """The records for queues that are the table itself: a new object for each worker."""
        from .records.table_queue import RecordTableQueue

        return RecordTableQueue()

    @cached_property
    def dispatcher(self) -> Dispatcher:
        """The one dispatcher, on the portal's loop."""
        return Dispatcher(self.transport, is_unsent=self._is_left)

    @cached_property
    def sender(self) -> Sender:
        """The sender of committed messages, according to the mode in the settings."""
        return ModeSender(
            self.portal,
            self.dispatcher,
            None if self.waits_for_send else self.background,
            run_now=self._run_now,
            wake=self._wake_local_workers,
        )

    @cached_property
    def background(self) -> Background:
        """The sending of stored messages while nobody waits for it."""
        return Background(self.portal, self.dispatcher, self.outbox)

    @cached_property
    def enqueuer(self) -> Enqueuer:
        """The entry point of all calls to enqueue."""
        return Enqueuer(self.outbox, self.sender)

    @cached_property
    def relay(self) -> Relay:
        """The relay, which sends stored messages that no queue has accepted yet."""
        return Relay(self.outbox, self.sender.asend_patiently)

    @cached_property
    def relay_shifts(self) -> RelayShifts:
        """The shifts of the relay, as this process knows them."""
        from .records.relay_shifts import RecordRelayShifts

        return RelayShifts(RecordRelayShifts())

    @cached_property
    def scheduler(self) -> Scheduler:
        """The scheduler, which enqueues what is due soon."""
        return Scheduler(self.schedule_table, self.enqueuer.enqueue, declared)

    @cached_property
    def schedule_table(self) -> "RecordSchedules":
        """The rows of schedules."""
        from .records.schedules import RecordSchedules

        return RecordSchedules()

    @cached_property
    def round(self) -> Round:
        """What one process of the system does once a minute."""
        return Round(
            self.scheduler.tick,
            partial(self.hand_over_places, thorough=True),
            self._end_cancelled,
            self.relay.run_once,
            self._roll_up,
        )

    @cached_property
    def finisher(self) -> "Finisher":
        """The writer of the ends of runs."""
        from .execution.finishing import Finisher

        return Finisher(self.claims)

    @cached_property
    def limits(self) -> "RecordLimits":
        """The places and paces of tasks with limits."""
        from .records.limits import RecordLimits

        return RecordLimits(lambda queue: conf.current().look_terms(queue))

    async def hand_over_places(self, *, thorough: bool = False) -> None:
        """Hand over the places of lost runs, and send the messages of those that get one."""
        rescue = partial(self.limits.rescue, thorough=thorough)
        if woken := await call_database(rescue):
            await self.enqueuer.asend_stored(woken)

    @cached_property
    def locks(self) -> "SingletonLocks":
        """The locks of singletons."""
        from .execution.locks import SingletonLocks
        from .records.locks import RecordLocks

        return SingletonLocks(RecordLocks(), cache_alias=lambda: conf.current().singleton_cache)

    # The Wiring of queues

    @property
    def aws_options(self) -> Mapping[str, Any]:
        """See queues.base.Wiring."""
        return conf.current().aws

    @property
    def queue_prefix(self) -> str:
        """See queues.base.Wiring."""
        return conf.current().queue_prefix

    def signer(self, audience: str) -> Signer | None:
        """See queues.base.Wiring."""
        return conf.current().signer(audience)

    def transport(self, queue: str) -> Transport:
        """See queues.base.Wiring. Transports are created again when the settings change."""
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
        default_endpoint_url: str | None = None,
        waits_s: float = 0,
        has_lineage: bool = True,
    ) -> AwsClient:
        """See queues.base.Wiring."""
        in_order = sorted(options.items(), key=lambda item: item[0])
        key = f"{service} {default_endpoint_url} {waits_s} {has_lineage} {in_order!r}"
        if key not in self._clients:
            self._clients[key] = AwsClient(
                service,
                options,
                default_endpoint_url=default_endpoint_url,
                waits_s=waits_s,
                has_lineage=has_lineage,
            )
        return self._clients[key]

    def is_table(self, queue: str) -> bool:
        """See queues.base.Wiring."""
        return conf.current().queue(queue).is_table

    async def store(self, messages: Sequence[Outgoing]) -> None:
        """See queues.base.Wiring."""
        await _ask_on_reserved_thread(lambda: self.outbox.insert_queued(messages))

    # The way in

    def executor(
        self, *, concurrency: int | None = None, processes: int | None = None
    ) -> "Executor":
        """Return a new executor for a handler or a worker.

        `concurrency`, the number of lanes, and `processes` default to the settings. Raises
        ImproperlyConfigured where worker processes could not load the settings.
        """
        from .execution.lanes import Lanes
        from .execution.process_pool import ProcessPool

        if not os.environ.get(ENVIRONMENT_VARIABLE):
            raise ImproperlyConfigured(
                f"The environment has no {ENVIRONMENT_VARIABLE}, from which the processes of sync "
                "tasks load the settings: what settings.configure() sets stays in this process. "
                f"Put the settings into a module, and its name into {ENVIRONMENT_VARIABLE}."
            )
        settings = conf.current()
        return self.make_executor(
            Lanes(concurrency or settings.concurrency),
            ProcessPool(processes or settings.processes, serve_worker_process),
        )

    def make_executor(self, lanes: "Lanes", processes: "ProcessPool") -> "Executor":
        """Return a new executor that runs tasks in these lanes and worker processes."""
        from .execution.executor import Executor

        return Executor(
            finisher=self.finisher,
            settings=conf.current,
            resolve=registry.resolve,
            make_attempt=self.make_attempt,
            send_stored=self._send_stored,
            send_steps=self.enqueuer.asend_released,
            limits=self.limits,
            lock=self.locks,
            lanes=lanes,
            processes=processes,
        )

    @cached_property
    def make_attempt(self) -> "MakeAttempt":
        """The factory of attempts. An attempt's time starts with the call."""
        from .execution.attempt import Attempt

        return partial(Attempt, finisher=self.finisher, lock=self.locks)

    def warm_up(self) -> None:
        """Load what the first call to SQS needs, so that it holds up no request.

        Nothing is opened and no thread is started: a server may fork after this.
        """
        from .queues.aws.session import warm_up

        warm_up("sqs")
        _ = self.outbox

    # The end

    def close(self) -> None:
        """Send the messages that are still waiting, and close the connections."""
        if self._local_workers is not None:
            self._local_workers.close()
        if self.portal.has_thread:
            self.portal.call(self._drain)
            self.background.close()
            self.portal.close()

    async def disconnect(self) -> None:
        """Send the messages that are still waiting, and close the connections.

        Connections are opened again when they are used.
        """
        await self.portal.acall(self._drain)
        await in_reserved_thread(pools.close)

    async def aclose(self) -> None:
        """See close(). For callers whose event loop the portal has adopted."""
        await self.disconnect()
        await in_reserved_thread(self.portal.close)

    async def _drain(self) -> None:
        await self.background.drain()
        for client in self._clients.values():
            await client.aclose()

    async def _end_cancelled(self) -> None:
        from .records.workflows import finish_all_cancelled

        await call_database(finish_all_cancelled)

    async def _roll_up(self) -> int:
        from .records.rollups import roll_up

        kept_for = timedelta(days=conf.current().keep_figures)
        return await call_database(roll_up, kept_for, limit_s=ROLL_UP_LIMIT_S)

    async def _is_left(self, id: UUID) -> bool:
        return await _ask_on_reserved_thread(lambda: self.outbox.is_unsent(id))

    async def _send_stored(self, messages: Sequence[Outgoing]) -> dict[UUID, str]:
        return await self.enqueuer.asend_stored(messages)

    def _wake_local_workers(self) -> None:
        if self._local_workers is None:
            self._local_workers = LocalWorkers(conf.current().local_workers)
        self._local_workers.wake()

    def _run_now(self, outgoing: Outgoing) -> BaseException | None:
        from .execution.eager import EagerRunner

        runner = EagerRunner(
            self.finisher, registry.resolve, self.make_attempt, self.enqueuer.find_released
        )
        return runner.run(outgoing)


class _Process:
    """The runtime of this process. A forked child starts without one."""

    lock = threading.RLock()  # for handlers of signals that call tasks
    runtime: Runtime | None = None
    is_ending = False
    """Whether the process ends: a further runtime is closed by nobody."""
    abandoned: ClassVar[list[Runtime]] = []


def current() -> Runtime:
    """Return the runtime of this process, which is created at the first call."""
    if _Process.runtime is None:
        with _Process.lock:
            if _Process.runtime is None:
                made = Runtime()
                _Process.runtime = _Process.runtime or made
    return _Process.runtime


def _send_released(released: Sequence[Released]) -> None:
    current().enqueuer.send_released(released)


releasing.send_by(_send_released)


@contextmanager
def replace_current(other: Runtime) -> Iterator[None]:
    """Let `other` be this process's runtime in the body; for tests."""
    before, _Process.runtime = _Process.runtime, other
    try:
        yield
    finally:
        _Process.runtime = before


def worker_id(pid: int | None = None) -> str:
    """Return the id of this process, or of another one here, by which its logs can be found.

    In Lambda it is the name of the log stream, one for each execution environment; elsewhere it is
    HOST:PID. LAMBDA_TASKS_RELEASE follows behind a space.
    """
    log_stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
    process = log_stream or f"{socket.gethostname()}:{pid or os.getpid()}"
    return f"{process} {conf.current().release}".rstrip()[:MAX_WORKER_ID]


async def _ask_on_reserved_thread(ask: Callable[[], T]) -> T:
    """Ask the records on a reserved thread: the caller's thread may wait for the answer."""

    def ask_and_close() -> T:
        try:
            with interrupts.interrupt_after(interrupts.LIBRARY_STATEMENT_LIMIT_S):
                return ask()
        finally:
            connections.close_all()

    return await in_reserved_thread(ask_and_close)


def serve_worker_process(pipe: "Connection", workers_end: "socket.socket") -> None:
    """Run what comes by the socket, as the main function of a worker process."""
    from .cold_start.memory_limit import limit_memory
    from .execution.worker_process import serve

    def wire() -> "MakeAttempt":
        current().waits_for_send = True
        return current().make_attempt

    limit_memory()
    serve(pipe, workers_end, wire)


def close() -> None:
    """Send the messages that are still waiting, and close all connections.

    The next use creates a new runtime.
    """
    if (runtime := _detach()) is not None:
        runtime.close()


def _close_at_exit() -> None:
    _Process.is_ending = True
    close()


async def aclose(runtime: Runtime) -> None:
    """Close this runtime, which may no longer be the process's own. See close()."""
    if runtime is _Process.runtime:
        _detach()
    await runtime.aclose()


def _detach() -> Runtime | None:
    runtime, _Process.runtime = _Process.runtime, None
    return runtime


def _reset_after_fork() -> None:
    """Forget the parent's runtime, in a forked child."""
    _Process.lock = threading.RLock()
    # Kept referenced: a garbage collection would close the parent's sockets, or warn of them.
    if (runtime := _detach()) is not None:
        _Process.abandoned.append(runtime)


atexit.register(_close_at_exit)
os.register_at_fork(after_in_child=_reset_after_fork)
