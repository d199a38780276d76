"""One warm handler and ten thousand tasks: it holds on to nothing."""

from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from django.db import connection

from lambda_tasks import threads
from lambda_tasks.models import TaskRecord
from tests.app import tasks
from tests.conftest import body, sqs_event
from tests.servers import LambdaProcess

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="counts the connections of PostgreSQL"
    ),
]

EVENT = 100
WARM_UP_EVENTS = 20
EVENTS = 80
GROWTH = 1.10


@dataclass(frozen=True)
class Holdings:
    """What the handler and all that it has started hold."""

    processes: int
    threads: int
    descriptors: int
    connections: int
    memory_bytes: int

    def counts(self) -> tuple[int, int, int, int]:
        return self.processes, self.threads, self.descriptors, self.connections


def _holdings(pid: int) -> Holdings:
    handler = psutil.Process(pid)
    family = [handler, *handler.children(recursive=True)]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"  # no autovacuum
        )
        (connections,) = cursor.fetchone()
    return Holdings(
        processes=len(family),
        threads=sum(each.num_threads() for each in family),
        descriptors=sum(each.num_fds() for each in family),
        connections=connections,
        memory_bytes=sum(each.memory_full_info().uss for each in family),
    )


def _event() -> Any:
    """Half sync, half async; a few of each fail."""
    messages = [body(tasks.add, a=place) for place in range(EVENT // 2 - 2)]
    messages += [body(tasks.aadd, a=place) for place in range(EVENT // 2 - 2)]
    failing = (tasks.write_and_fail, tasks.awrite_and_fail)
    messages += [body(task, name=name) for task in failing for name in "xy"]
    return sqs_event(*messages)


def _work(function: LambdaProcess, events: int) -> None:
    for _ in range(events):
        answer = function.invoke(_event())
        assert answer == {"batchItemFailures": []}, function.output[-9000:]


def test_ten_thousand_tasks_leave_a_handler_as_it_was() -> None:
    with LambdaProcess() as function:
        _work(function, WARM_UP_EVENTS)
        before = _holdings(function.pid)

        _work(function, EVENTS)

        after = _holdings(function.pid)
    assert TaskRecord.objects.count() == (WARM_UP_EVENTS + EVENTS) * EVENT
    assert not TaskRecord.objects.exclude(status__in=["SUCCESS", "FAILED"]).exists()
    assert after.processes == before.processes
    # Each of our own threads, with its connection, is started when so many are busy at once.
    growth = [now - was for now, was in zip(after.counts(), before.counts(), strict=True)]
    assert max(growth) <= threads.RESERVED_THREADS, (before, after)
    assert after.memory_bytes <= before.memory_bytes * GROWTH, (before, after)
