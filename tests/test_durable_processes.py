"""Durable functions in lanes and worker processes, whose transactions are committed."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models.functions import Now

from lambda_tasks import Invocation
from lambda_tasks.durable import DurableRun, signal
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.postponing import make_due
from tests.app import durable
from tests.app.durable import Approval
from tests.app.models import Effect
from tests.conftest import Task, relay, wait_for
from tests.test_isolation import _somebody_waits_for_a_lock

pytestmark = pytest.mark.django_db(transaction=True)

WorkOff = Callable[[str], int]


def _effects() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


def _deliver(queue: str, work_off: WorkOff) -> None:
    """Deliver what is due. What a worker process sends goes to the queue of its own settings."""
    work_off(queue)
    due = TaskRecord.objects.filter(status="QUEUED").exclude(run_after__gt=Now())
    due.update(look_at=Now(), sent_at=None)
    relay()


def _has_ended(call: Invocation[Any], queue: str, work_off: WorkOff) -> bool:
    """Deliver what is due, and end sleeps."""
    _deliver(queue, work_off)
    waiting = DurableRun(call.id).steps()[-1:]
    if waiting and (waiting[0].kind, waiting[0].status) == ("sleep", "waiting"):
        for id in TaskRecord.objects.filter(status="QUEUED").values_list("id", flat=True):
            make_due(id)
    return not TaskRecord.objects.filter(status__in=("QUEUED", "RUNNING", "WAITING")).exists()


@pytest.mark.parametrize(
    ("task", "value", "result"),
    [
        (durable.fulfil, Approval(by="Ann"), "receipt 7, 30 of 3, Ann, noted"),
        (durable.fulfil_sync, True, "receipt 7, [0, 20], 1 failed, True"),
    ],
)
def test_a_function_goes_its_way_through_the_queue(
    queue: str, work_off: WorkOff, task: Task, value: object, result: str
) -> None:
    call = task.execute_on_commit(order_id=7)

    def waits() -> bool:
        _deliver(queue, work_off)
        return any(each.kind == "wait_for" for each in DurableRun(call.id).steps())

    wait_for(waits)
    assert signal(call.id, "approval", value)
    wait_for(lambda: _has_ended(call, queue, work_off))

    assert call.result(timeout=5) == result
    assert len(_effects()) == len(set(_effects()))


def test_a_function_whose_process_dies_in_a_step_goes_on_behind_the_one_before(
    queue: str, work_off: WorkOff
) -> None:
    call = durable.survive.execute_on_commit()

    wait_for(lambda: _has_ended(call, queue, work_off))

    assert call.result(timeout=5) == "alive"
    assert _effects() == ["mail first", "mail retried"]


@pytest.fixture
def open_signal() -> Iterator[Callable[[Invocation[Any]], None]]:
    """Send a signal in a transaction that is open until somebody waits for it."""
    threads: list[threading.Thread] = []

    def send(call: Invocation[Any]) -> None:
        is_sent = threading.Event()

        def in_transaction() -> None:
            try:
                with transaction.atomic():
                    signal(call.id, "approval", Approval(by="Ann"))
                    is_sent.set()
                    wait_for(_somebody_waits_for_a_lock)
            finally:
                connections.close_all()

        threads.append(threading.Thread(target=in_transaction))
        threads[-1].start()
        assert is_sent.wait(60)

    yield send
    for each in threads:
        each.join()


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="shows its locks at once")
def test_a_signal_and_a_wait_for_it_can_not_miss_each_other(
    queue: str, work_off: WorkOff, open_signal: Callable[[Invocation[Any]], None]
) -> None:
    assert connection.vendor
    call = durable.fulfil.execute_on_commit(order_id=7)
    open_signal(call)

    wait_for(lambda: _has_ended(call, queue, work_off))

    assert call.result(timeout=5) == "receipt 7, 30 of 3, Ann, noted"
