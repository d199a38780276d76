"""Databases whose transactions are isolated more strictly: what we write beside a task is none of
its conflicts, and what conflicts all the same is tried again."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction
from django.db.models.functions import Now

from lambda_tasks.core.lifecycle import End, Release, Succeeded
from lambda_tasks.execution import leases
from lambda_tasks.execution.time_budget import LEASE_MARGIN_S
from lambda_tasks.models import RunProgress, RunState, TaskRecord
from lambda_tasks.records.retrying import MAX_TRIES, run_with_retries
from tests.app import outages, resuming, tasks
from tests.app.models import Effect
from tests.conftest import Task, wait_for
from tests.test_looks import claimed, due_in_table, look, stored
from tests.test_store import LEASE, _granted, _request, holder
from tests.test_worker import run

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="its levels of isolation"),
]


@pytest.fixture(params=["repeatable read", "serializable"])
def isolation(request: Any) -> Iterator[str]:
    """The isolation level of every transaction that begins on a new connection."""
    name = connection.ops.quote_name(connection.settings_dict["NAME"])

    def isolate(clause: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {name} {clause}")
        connections.close_all()

    isolate(f"SET default_transaction_isolation = '{request.param}'")
    yield request.param
    isolate("RESET default_transaction_isolation")


def statuses() -> list[tuple[str, str | None]]:
    return sorted(set(TaskRecord.objects.values_list("status", "traceback")))


@pytest.mark.parametrize("task", [resuming.save_and_show, resuming.asave_and_show])
def test_a_task_saves_and_shows_its_progress(isolation: str, queue: str, task: Task) -> None:
    task.using(queue="table").execute_on_commit()

    code, output = run(queue, "--queue", "table", "--once")

    assert code == 0, output
    assert statuses() == [("SUCCESS", None)]
    assert TaskRecord.objects.get().progress == {"done": 2, "total": 3, "text": "two of three"}


def test_a_task_that_runs_for_longer_than_leases_are_left_alone_ends_in_its_first_run(
    isolation: str, queue: str
) -> None:
    resuming.leave_effect_and_wait.using(queue="table").execute_on_commit(seconds=14)
    resuming.leave_effect_and_sleep.using(queue="table").execute_on_commit(seconds=14)

    code, output = run(queue, "--queue", "table", "--once")

    assert code == 0, output
    assert statuses() == [("SUCCESS", None)]
    assert Effect.objects.count() == 2
    for record in TaskRecord.objects.all():
        assert record.lease_until is not None
        assert record.start_time is not None
        held_for_s = (record.lease_until - record.start_time).total_seconds()
        # Nobody has written it meanwhile.
        assert held_for_s < 300 + LEASE_MARGIN_S + leases.EXTEND_EVERY_S / 2


@pytest.mark.parametrize("queue_name", ["default", "table"])
@pytest.mark.usefixtures("isolation", "queue")
def test_a_look_leaves_a_run_alone_that_holds_its_lease(queue_name: str) -> None:
    """Also where its record is to be looked at: it could not write its end any more."""
    id = stored(queue_name)
    claim = claimed(id, from_table=queue_name == "table", lease=timedelta(0))
    holder.extend([claim], LEASE)

    with transaction.atomic():
        assert TaskRecord.objects.filter(look_at__lt=Now()).exists()
        looking = threading.Thread(target=look_beside)
        looking.start()
        looking.join()
        holder.finish(End(claim, Succeeded(1)))

    assert statuses() == [("SUCCESS", None)]


def look_beside() -> None:
    """As the relay and a worker of the table do."""
    look()
    due_in_table()
    connections.close_all()


def test_many_tasks_that_write_at_once_all_end_well(isolation: str, queue: str) -> None:
    for task in (tasks.aleave_effect, tasks.leave_effect):
        task.using(queue="table").execute_many_on_commit({"name": str(n)} for n in range(120))

    code, output = run(queue, "--queue", "table", "--once", "--concurrency", "20")

    assert code == 0, output
    assert statuses() == [("SUCCESS", None)], output
    assert Effect.objects.count() == 240


Write = Callable[[], object]


def _extend() -> Write:
    held = _granted(_request())
    return lambda: holder.extend([held], LEASE * 2)


def _release() -> Write:
    held = _granted(_request())
    return lambda: holder.release([held], Release(counts=True))


def _finish() -> Write:
    held = _granted(_request())
    return lambda: holder.finish(End(held, Succeeded("done")))


def _finish_many() -> Write:
    ends = [End(_granted(_request()), Succeeded("done")) for _ in range(2)]
    return lambda: holder.finish_many(ends)


def _show_progress() -> Write:
    held = _granted(_request())
    holder.show_progress(held, {"done": 1})
    return lambda: holder.show_progress(held, {"done": 2})


def _save_state() -> Write:
    held = _granted(_request())
    holder.save_state(held, 1)
    return lambda: holder.save_state(held, 2)


@pytest.mark.parametrize(
    ("prepare", "is_written"),
    [
        (_extend, lambda record: record.lease_until - record.start_time > LEASE * 1.5),
        (_release, lambda record: record.status == "QUEUED"),
        (_finish, lambda record: record.result == "done"),
        (_finish_many, lambda record: record.result == "done"),
        (_show_progress, lambda record: record.progress == {"done": 2}),
        (_save_state, lambda record: record.state == 2),
    ],
)
def test_what_we_write_meets_another_who_writes_it_and_is_written_after_it(
    isolation: str,
    prepare: Callable[[], Write],
    is_written: Callable[[TaskRecord], bool],
) -> None:
    write = prepare()
    raised: list[Exception] = []

    def write_beside() -> None:
        try:
            write()
        except Exception as error:
            raised.append(error)
        finally:
            connections.close_all()

    beside = threading.Thread(target=write_beside)
    with transaction.atomic():
        TaskRecord.objects.update(priority=1)
        RunState.objects.update(state=0)
        RunProgress.objects.update(progress=0)
        beside.start()
        wait_for(_somebody_waits_for_a_lock)
    beside.join()

    assert raised == []
    assert all(record.priority == 1 and is_written(record) for record in TaskRecord.objects.all())


def _somebody_waits_for_a_lock() -> bool:
    with outages.administrator() as server:
        waiting = server.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
    return waiting is not None and waiting[0] != 0


class _Conflict(Exception):
    sqlstate = "40001"


def _refuse(tries: list[int], *, until: float, sqlstate: str = "40001") -> None:
    tries.append(1)
    if len(tries) < until:
        cause = _Conflict()
        cause.sqlstate = sqlstate
        raise OperationalError("refused") from cause


def test_what_meets_nobody_but_conflicts_is_given_up_after_some_tries() -> None:
    met: list[int] = []
    run_with_retries("default", lambda: _refuse(met, until=MAX_TRIES))
    assert len(met) == MAX_TRIES

    met.clear()
    with pytest.raises(OperationalError):
        run_with_retries("default", lambda: _refuse(met, until=float("inf")))
    assert len(met) == MAX_TRIES


def test_what_is_no_conflict_is_not_tried_again() -> None:
    met: list[int] = []
    with pytest.raises(OperationalError):
        run_with_retries("default", lambda: _refuse(met, until=float("inf"), sqlstate="57014"))
    assert len(met) == 1


def test_what_was_cut_is_tried_once_more_and_in_a_transaction_nothing_is() -> None:
    met: list[int] = []
    with pytest.raises(OperationalError):
        run_with_retries("default", lambda: _refuse(met, until=float("inf"), sqlstate="57P01"))
    assert len(met) == 2

    met.clear()
    with pytest.raises(OperationalError), transaction.atomic():
        run_with_retries("default", lambda: _refuse(met, until=float("inf")))
    assert len(met) == 1


def test_a_statement_of_ours_on_a_connection_that_was_cut_goes_by_another() -> None:
    held = _granted(_request())
    outages.cut_connections()

    holder.extend([held], LEASE * 2)

    lease_until, start = TaskRecord.objects.values_list("lease_until", "start_time").get()
    assert lease_until is not None
    assert start is not None
    assert lease_until - start > LEASE * 1.5
