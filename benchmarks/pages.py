"""What pages of the admin ask among a million records, and what the tick costs that counts them.

Run `uv run --group bench python -m benchmarks.pages --rows 100000` for a first look. Figures of the
week before are counted first, which takes a few minutes for a million records.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, Final

from benchmarks.many_records import many_records

REPEATED: Final = 9


def main() -> None:
    with many_records(__doc__, prepare):
        print(f"counted the week in {count_all():.0f} s")
        print("| what | statements | ms | CPU of this process, ms |\n|---|---:|---:|---:|")
        for name, ask in questions().items():
            print(measure(name, ask))


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


def questions() -> Mapping[str, Callable[[], Any]]:
    """What is asked, by its name."""
    from datetime import timedelta

    from lambda_tasks import operations
    from lambda_tasks.operations import figures
    from lambda_tasks.operations.figures import Range
    from lambda_tasks.records.rollups import roll_up

    def overview(range: Range) -> Any:
        return figures.overview(range), operations.queue_states(), operations.last_report()

    name = "shop.tasks.task_7"
    return {
        "a tick": lambda: roll_up(timedelta(days=90)),
        **{f"overview, {each.value}": partial(overview, each) for each in Range},
        "queues": lambda: (figures.queues(), operations.queue_states(), operations.last_report()),
        "tasks, 24h": lambda: (figures.tasks(), figures.last_successes()),
        "tasks, 7d": lambda: (figures.tasks(Range.LAST_WEEK), figures.last_successes()),
        "one task": lambda: figures.task(name),
        "errors": figures.errors,
        "still broken": lambda: figures.still_broken_ids(limit=100),
        "still broken of a task": lambda: figures.still_broken_ids(task=name, limit=100),
    }


def measure(name: str, ask: Callable[[], Any]) -> str:
    """Return a row of the table: the median of some calls."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as statements:
        ask()
    walls, cpus = [], []
    for _ in range(REPEATED):
        started_at, cpu_at = time.perf_counter(), time.process_time()
        ask()
        walls.append(time.perf_counter() - started_at)
        cpus.append(time.process_time() - cpu_at)
    shown = f"{median(walls) * 1000:.1f} | {median(cpus) * 1000:.1f}"
    return f"| {name} | {len(statements)} | {shown} |"


if __name__ == "__main__":
    main()
