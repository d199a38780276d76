"""One process relays for the whole system, and the others find out for next to nothing."""

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.db.models import F

from lambda_tasks import handler, hooks, runtime
from lambda_tasks.enqueue.relay_shifts import OWN_SHIFT_S, SHIFT_S, RelayShifts
from lambda_tasks.entrypoints.lambda_events import EventHandler
from lambda_tasks.hooks import beside
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import RelayShift, TaskRecord
from lambda_tasks.records.clock import Now
from lambda_tasks.records.relay_shifts import RecordRelayShifts
from tests.app import gated, tasks
from tests.conftest import AMPLE_S, PATIENCE_S, body, sqs_event, wait_for
from tests.test_table_queue import worker

pytestmark = pytest.mark.django_db(transaction=True)

STATEMENTS_OF_AN_ASK = 1 if connection.vendor == "postgresql" else 2

SLOWNESS_S = 10
"""What a machine may add to the times of a fleet."""

locks_rows = pytest.mark.skipif(
    not connection.features.has_select_for_update, reason="This database locks no rows."
)


class Fleet:
    """Processes whose time a test lets pass, on the real table."""

    def __init__(self, size: int) -> None:
        self._skipped_s = 0.0
        self.relays: list[tuple[float, int]] = []
        """The time of each relay, and its process."""
        self.n_statements = 0
        self.processes = {
            number: RelayShifts(RecordRelayShifts(), clock=self.now) for number in range(size)
        }
        self._due = [
            (self.now() + each.due_in_s, number) for number, each in self.processes.items()
        ]
        heapq.heapify(self._due)

    async def run_for(self, minutes: float, statements: Any) -> None:
        end = self.now() + 60 * minutes
        with statements() as counted:
            while self._due[0][0] < end:
                due_at, number = heapq.heappop(self._due)
                if number not in self.processes:
                    continue
                await self._skip(due_at - self.now())
                n_before = len(counted)
                if await self.processes[number].take():
                    self.relays.append((self.now(), number))
                self.n_statements += len(counted) - n_before
                heapq.heappush(self._due, (self.now() + self.processes[number].due_in_s, number))
        await self._skip(end - self.now())

    def now(self) -> float:
        return time.monotonic() + self._skipped_s

    async def _skip(self, seconds: float) -> None:
        """Let time pass: for the processes by their clock, for the database by its row."""
        if seconds < 0:
            return
        self._skipped_s += seconds
        earlier = F("next_at") - timedelta(seconds=seconds)
        await sync_to_async(RelayShift.objects.update)(next_at=earlier)

    def gaps_s(self) -> list[float]:
        times = [time for time, _ in self.relays]
        return [after - before for before, after in itertools.pairwise(times)]


def take(always: bool = False) -> bool:
    """Ask for the shift as a process of its own."""
    return async_to_sync(RelayShifts(RecordRelayShifts()).take)(always=always)


def shift() -> RelayShift:
    return RelayShift.objects.get()


def left_s() -> float:
    next_at, now = RelayShift.objects.values_list("next_at", Now()).get()
    return float((next_at - now).total_seconds())


def test_a_thousand_warm_processes_cost_few_statements_and_one_of_them_relays(
    statements: Any,
) -> None:
    fleet = Fleet(1000)
    async_to_sync(fleet.run_for)(5, statements)  # each has asked once, and knows how many ask
    fleet.n_statements = 0
    del fleet.relays[:-1]

    async_to_sync(fleet.run_for)(10, statements)

    asks_a_minute = fleet.n_statements / STATEMENTS_OF_AN_ASK / 10
    assert 5 < asks_a_minute < 50
    assert len(fleet.gaps_s()) > 8
    assert max(fleet.gaps_s()) < SHIFT_S + SLOWNESS_S
    assert min(fleet.gaps_s()) > SHIFT_S - SLOWNESS_S
    assert len({process for _, process in fleet.relays}) < 5, "the one that relays goes on"


@pytest.mark.parametrize(("size", "within_s"), [(1, 0), (2, 0), (100, 30)])
def test_when_the_one_that_relays_dies_another_takes_over(
    size: int, within_s: float, statements: Any
) -> None:
    fleet = Fleet(size)
    async_to_sync(fleet.run_for)(6, statements)
    if size > 1:
        del fleet.processes[fleet.relays[-1][1]]

    async_to_sync(fleet.run_for)(3, statements)

    assert len(fleet.gaps_s()) > 6
    assert max(fleet.gaps_s()) < SHIFT_S + within_s + SLOWNESS_S


def test_of_two_that_ask_at_once_while_nobody_has_ever_asked_one_relays() -> None:
    both = threading.Barrier(2)
    granted: list[bool] = []

    def ask() -> None:
        both.wait(PATIENCE_S)
        granted.append(take())
        connections.close_all()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(granted) == [False, True]
    assert shift().n_asked == 2


def test_who_relays_in_any_case_has_the_shift_for_as_long_as_its_next_tick_may_take() -> None:
    assert take()
    token = shift().token

    assert take(always=True)

    assert shift().token != token
    assert SHIFT_S < left_s() <= OWN_SHIFT_S
    assert not take()


def test_a_clock_that_was_set_back_stops_no_relay() -> None:
    assert take()
    RelayShift.objects.update(next_at=Now() + timedelta(hours=1))

    assert take()

    assert left_s() <= SHIFT_S


@contextmanager
def locked_shift() -> Iterator[None]:
    """The row is locked by a transaction that does not end."""
    take()
    is_locked, is_over = threading.Event(), threading.Event()

    def lock() -> None:
        with transaction.atomic():
            RelayShift.objects.select_for_update().get()
            is_locked.set()
            is_over.wait()
        connection.close()

    locking = threading.Thread(target=lock)
    locking.start()
    try:
        assert is_locked.wait(PATIENCE_S)
        yield
    finally:
        is_over.set()
        locking.join()


@locks_rows
def test_a_lock_on_the_shift_stops_no_relay(queue: str, caplog: pytest.LogCaptureFixture) -> None:
    with locked_shift():
        answer_events(process(idle=True))

    assert relayed() == ["before event 0"]
    (warning,) = [each for each in caplog.records if each.name == "lambda_tasks"]
    assert warning.levelname == "WARNING"
    assert "so this one does" in warning.getMessage()


# Events


def process(*, idle: bool) -> runtime.Runtime:
    """A process that has not asked for the shift since its start, long ago if it is `idle`."""
    times = itertools.chain([0.0], itertools.repeat(AMPLE_S if idle else 1.0))
    here = runtime.Runtime()
    here.relay_shifts = RelayShifts(RecordRelayShifts(), clock=lambda: next(times))
    return here


def answer_events(here: runtime.Runtime, *, timeout_s: float = AMPLE_S, times: int = 1) -> None:
    executor = here.executor()
    events = EventHandler(here, executor)

    async def answer() -> None:
        await sync_to_async(connections.close_all)()  # another test may have cut them
        for number in range(times):
            await sync_to_async(leave_unsent)(f"before event {number}")
            event = sqs_event(body(tasks.aadd_direct, a=number))
            await events.handle(event, LambdaContext(timeout_s=timeout_s))
        await executor.aclose()
        await runtime.aclose(here)

    asyncio.run(answer())


def leave_unsent(name: str) -> None:
    long_ago = Now() - timedelta(hours=1)
    TaskRecord.objects.create(
        task_name=tasks.leave_effect.name, kwargs={"name": name}, look_at=long_ago
    )


def relayed() -> list[str]:
    sent = TaskRecord.objects.filter(task_name=tasks.leave_effect.name).exclude(sent_at=None)
    return [each.kwargs["name"] for each in sent]


def test_an_event_sends_what_was_left_once_a_minute(queue: str) -> None:
    answer_events(process(idle=True), times=2)

    assert relayed() == ["before event 0"]


@pytest.mark.parametrize(("idle", "timeout_s"), [(False, AMPLE_S), (True, 11)])
def test_an_event_that_comes_soon_or_has_no_time_leaves_it_to_another(
    queue: str, idle: bool, timeout_s: float
) -> None:
    answer_events(process(idle=idle), timeout_s=timeout_s)

    assert relayed() == []
    assert not RelayShift.objects.exists(), "it has not even asked"


def test_an_event_leaves_it_to_the_process_that_has_the_shift(queue: str) -> None:
    assert take()

    answer_events(process(idle=True))

    assert relayed() == []


@pytest.mark.usefixtures("_warm_handler")
def test_a_tick_sends_what_was_left_whoever_has_the_shift_and_takes_it(queue: str) -> None:
    assert take()
    leave_unsent("before the tick")

    assert handler.handler({"lambda_tasks": "tick"}, LambdaContext())["relayed"] == 1

    assert left_s() > SHIFT_S


def test_copies_of_a_snapshot_ask_at_different_times() -> None:
    shifts = RelayShifts(RecordRelayShifts(), clock=lambda: 0.0)
    times: set[float] = set()

    for _ in range(10):
        shifts.start_over()
        times.add(shifts.due_in_s)

    assert len(times) == 10
    assert all(SHIFT_S <= time <= 2 * SHIFT_S for time in times)


# Workers


@pytest.fixture
def rounds() -> Iterator[list[hooks.Relayed]]:
    """The rounds of the relay in this process."""
    seen: list[hooks.Relayed] = []
    hooks.relayed.connect(seen.append)
    yield seen
    hooks.relayed.receivers = ()


def test_several_workers_relay_once_a_minute_in_all(
    queue: str, rounds: list[hooks.Relayed]
) -> None:
    with ExitStack() as workers:
        for _ in range(3):
            workers.enter_context(worker())
        wait_for(lambda: RelayShift.objects.filter(n_asked=3).exists())
        wait_for(lambda: rounds)

    assert beside.flush(AMPLE_S)
    assert len(rounds) == 1


def test_a_worker_that_runs_once_sends_what_was_left_whoever_has_the_shift(
    queue: str, tmp_path: Path
) -> None:
    assert take()
    RelayShift.objects.update(next_at=Now() + timedelta(days=1))
    leave_unsent("before the worker")
    gate = tmp_path / "gate"
    gated.await_gate.using(queue="table").execute_on_commit(gate=gate)

    with worker(once=True):
        wait_for(lambda: "before the worker" in relayed())
        gate.touch()
