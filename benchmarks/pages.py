"""What each page of the dashboard takes among a million records, and the tick that counts them.

A page is asked for by Django's test client, with a session and all that its template says. Run
`uv run --group bench python -m benchmarks.pages --rows 100000` for a first look. Figures of the
week before are counted first, which takes a few minutes for a million records. Exits with 1 where
the overview takes ten statements or 150 ms, or another page 300 ms.
"""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from django import get_version as django_version

from benchmarks import report
from benchmarks.many_records import many_records
from benchmarks.options import RESULTS

TITLE: Final = "The dashboard"
MANY: Final = 1_000_000
REPEATED: Final = 9
ADMIN: Final = "/admin/lambda_tasks/"
RUNS: Final = f"{ADMIN}taskrecord/"
OVERVIEW: Final = "the overview"
MAX_OVERVIEW_STATEMENTS: Final = 10
MAX_OVERVIEW_MS: Final = 150.0
MAX_MS: Final = 300.0


class Answer(NamedTuple):
    """What a page, or the tick, takes."""

    name: str
    n_statements: int
    ms: float
    cpu_ms: float

    @property
    def is_quick(self) -> bool:
        """Whether it keeps its limits."""
        if self.name.startswith(OVERVIEW):
            return self.n_statements < MAX_OVERVIEW_STATEMENTS and self.ms < MAX_OVERVIEW_MS
        return self.ms < MAX_MS


def main() -> None:
    with many_records(__doc__, prepare):
        from lambda_tasks.models import TaskRecord

        n_records = TaskRecord.objects.count()
        report.say(f"counted the week in {count_all():.0f} s")
        found = list(answers())
    rows = [
        [each.name, str(each.n_statements), f"{each.ms:.1f}", f"{each.cpu_ms:.1f}"]
        for each in found
    ]
    head = ["Page", "statements", "ms", "CPU of the web process, ms"]
    conditions = report.conditions({"django": django_version()})
    text = f"{conditions} {n_records:,} records.\n\n{report.table(head, rows)}"
    print(f"\n{text}")
    if n_records >= MANY:
        report.write_section(RESULTS, TITLE, text)
    if slow := [each.name for each in found if not each.is_quick]:
        sys.exit(f"These take too long: {', '.join(slow)}")


def prepare() -> None:
    """Let runs wait and last, and failures have errors, as runs of tasks leave them."""
    from django.db import connection
    from django.db.models import F

    from lambda_tasks.core.fingerprints import fingerprint
    from lambda_tasks.models import TaskRecord

    table = TaskRecord._meta.db_table
    spread = SPREAD[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {spread} WHERE end_time IS NOT NULL")
        cursor.execute(f"UPDATE {table} SET root_id = id")
    failed = TaskRecord.objects.filter(status="FAILED").order_by()
    failed.update(broken_since=F("end_time"))
    ids = list(failed.values_list("pk", flat=True))
    for number, ordinal in enumerate(ORDINALS):
        traceback = f"shop.Wrong: it is the {ordinal}"
        TaskRecord.objects.filter(pk__in=ids[number :: len(ORDINALS)]).update(
            task_name=f"shop.tasks.task_{number}",
            traceback=traceback,
            error_id=fingerprint("shop.Wrong", traceback).id,
        )


ORDINALS: Final = ("first", "second", "third", "fourth", "fifth")
SPREAD: Final = {
    "postgresql": "start_time = enqueued_at + RANDOM() * INTERVAL '4 seconds',"
    " end_time = enqueued_at + (4 + 2 * RANDOM()) * INTERVAL '1 second'",
    "mysql": "start_time = enqueued_at + INTERVAL FLOOR(RAND() * 4e6) MICROSECOND,"
    " end_time = enqueued_at + INTERVAL FLOOR(4e6 + RAND() * 2e6) MICROSECOND",
}


def count_all() -> float:
    """Count all that has ended in the past week; return the seconds."""
    from datetime import timedelta

    from django.utils.timezone import now

    from lambda_tasks.models import LastTick
    from lambda_tasks.records.rollups import roll_up

    LastTick.objects.create(id=1, counted_until=now() - timedelta(days=8))
    started_at = time.monotonic()
    roll_up(timedelta(days=90), enough_s=3600.0)
    return time.monotonic() - started_at


def answers() -> Iterator[Answer]:
    """Yield what the tick and each page take."""
    from datetime import timedelta

    from django.contrib.auth.models import User
    from django.test import Client

    from lambda_tasks.records.rollups import roll_up

    client = Client()
    client.force_login(User.objects.create_superuser("anna"))

    def look(address: str) -> None:
        response = client.get(address)
        assert response.status_code == 200, (address, response.status_code)

    yield measure("a tick", partial(roll_up, timedelta(days=90)))
    for name, address in pages().items():
        yield measure(name, partial(look, address))


def pages() -> dict[str, str]:
    """Return the addresses of the pages by their names."""
    from lambda_tasks.models import TaskRecord
    from lambda_tasks.operations import figures
    from lambda_tasks.operations.figures import Range

    failed = TaskRecord.objects.filter(status="FAILED").values_list("pk", flat=True)[0]
    return {
        **{f"{OVERVIEW}, {each.value}": f"{RUNS}overview/?range={each.value}" for each in Range},
        "an error": f"{RUNS}errors/{figures.errors()[0].id}/",
        "runs": RUNS,
        "runs, FAILED": f"{RUNS}?status__exact=FAILED",
        "runs, still broken": f"{RUNS}?broken=yes",
        "runs of a task": f"{RUNS}?task_name__exact=shop.tasks.task_7",
        "runs with a text": f"{RUNS}?q=some+text",
        "runs with a text that none has": f"{RUNS}?q=no+such+text",
        "a run": f"{RUNS}{failed}/change/",
        "queues": f"{ADMIN}queuestate/",
        "workflows": f"{ADMIN}workflow/",
        "a workflow of 1,000 steps": f"{ADMIN}workflow/{workflow()}/change/",
        "schedules": f"{ADMIN}schedulestate/",
        "tasks": f"{RUNS}tasks/",
        "a task": f"{RUNS}tasks/shop.tasks.task_7/",
        "the admin's index, with the widget": "/admin/",
    }


def workflow() -> UUID:
    """Store a workflow of many steps, of which none has begun; return its id."""
    from lambda_tasks import runtime
    from lambda_tasks.workflows import WorkflowGraph, group, stored_as
    from tests.app.tasks import add

    id = uuid4()
    graph = WorkflowGraph("wide", [group([add.step(a=n) for n in range(1000)])])
    runtime.current().enqueuer.store_workflow(stored_as(graph, id))
    return id


def measure(name: str, ask: Callable[[], Any]) -> Answer:
    """Measure what something takes: the median of some calls."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as statements:
        ask()
    n_statements = len(statements)  # the next request forgets them
    walls, cpus = [], []
    for _ in range(REPEATED):
        started_at, cpu_at = time.perf_counter(), time.process_time()
        ask()
        walls.append(time.perf_counter() - started_at)
        cpus.append(time.process_time() - cpu_at)
    return Answer(name, n_statements, 1000 * median(walls), 1000 * median(cpus))


if __name__ == "__main__":
    main()
