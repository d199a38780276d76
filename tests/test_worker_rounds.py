"""The round of a worker: it fails, it hangs, and the worker ends all the same."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.db.models import F

from lambda_tasks import runtime
from lambda_tasks.database_calls import call_database
from lambda_tasks.entrypoints import worker as workers
from lambda_tasks.entrypoints.worker import Listener, PeriodicRelay, Worker, worker_of
from lambda_tasks.records.rollups import roll_up
from lambda_tasks.records.tables import LastTick
from tests.app import tasks
from tests.conftest import PATIENCE_S


def work_off(round: Callable[[], Awaitable[object]], monkeypatch: Any) -> None:
    """Let a worker work off an empty table, with this round."""
    monkeypatch.setattr(runtime.Runtime, "round", SimpleNamespace(run=round))

    async def scene() -> None:
        async with worker_of(runtime.Runtime(), ["table"], once=True, drain_s=0.0) as worker:
            async with asyncio.timeout(PATIENCE_S):
                await worker.run()

    asyncio.run(scene())


@pytest.mark.django_db(transaction=True)
def test_a_round_that_hangs_keeps_no_worker_from_ending_and_is_reported(
    monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "FIRST_RELAYS_LIMIT_S", 0.01)

    work_off(asyncio.Event().wait, monkeypatch)

    (warning,) = caplog.messages
    assert "The round has not ended within 0.01 s, and is interrupted." in warning


@pytest.mark.django_db(transaction=True)
def test_a_round_that_does_not_end_when_it_is_told_is_not_waited_for(
    monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "FIRST_RELAYS_LIMIT_S", 0.01)
    monkeypatch.setattr(workers, "RELAYS_END_LIMIT_S", 0.01)
    never = asyncio.Event()

    async def ignore_the_end() -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            await never.wait()

    work_off(ignore_the_end, monkeypatch)

    assert "1 relays have not ended within 0.01 s" in caplog.messages[-1]


@pytest.mark.django_db(transaction=True)
def test_a_worker_claims_and_runs_while_its_round_writes_without_a_pause(
    monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """On SQLite, too, where one of them writes at a time: no claim fails, and none has to wait."""
    roll_up(timedelta(days=1))
    ends = Ends()

    def write() -> None:
        with transaction.atomic():
            LastTick.objects.update(counted_until=F("counted_until"))

    async def write_until_all_have_run() -> None:
        handles = await tasks.aadd.using(queue="table").aexecute_many_on_commit([{"a": 1}] * 200)
        ends.worker.wake()
        while not ends.ids.issuperset(each.id for each in handles):
            await call_database(write)
        ends.worker.stop()

    monkeypatch.setattr(runtime.Runtime, "round", SimpleNamespace(run=write_until_all_have_run))

    async def scene() -> None:
        async with worker_of(runtime.Runtime(), ["table"], drain_s=1.0, listener=ends) as worker:
            ends.worker = worker
            async with asyncio.timeout(PATIENCE_S):
                await worker.run()

    asyncio.run(scene())

    assert len(ends.ids) == 200
    assert not caplog.messages


class Ends(Listener):
    """The ids of the worker's runs that have ended."""

    worker: Worker

    def __init__(self) -> None:
        self.ids: set[UUID] = set()

    def ended(self, invocation_id: UUID) -> None:
        self.ids.add(invocation_id)


@pytest.mark.parametrize("error", [ValueError(), asyncio.CancelledError()])
def test_a_relay_that_fails_is_reported_each_time_and_called_again(
    error: BaseException, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "RELAY_AGAIN_S", 0.0)
    again = asyncio.Event()
    n_calls = 0

    async def fail() -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            again.set()
        raise error

    async def scene() -> None:
        relaying = asyncio.ensure_future(PeriodicRelay(fail, lambda: 60.0).run())
        async with asyncio.timeout(PATIENCE_S):
            await again.wait()
        relaying.cancel()
        await asyncio.wait([relaying])

    asyncio.run(scene())

    assert caplog.messages[:2] == ["The relay failed; it runs again in 0 s"] * 2


def test_a_relay_that_fails_as_it_is_ended_is_reported_and_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_called = asyncio.Event()

    async def fail_at_the_end() -> None:
        try:
            is_called.set()
            await asyncio.Event().wait()
        finally:
            raise ValueError

    async def scene() -> None:
        relaying = asyncio.ensure_future(PeriodicRelay(fail_at_the_end, lambda: 60.0).run())
        await is_called.wait()
        relaying.cancel()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([relaying])
        assert relaying.cancelled()

    asyncio.run(scene())

    assert len(caplog.messages) == 1
