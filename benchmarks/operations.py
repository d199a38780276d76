"""What operators ask among a million records, of which ten thousand have failed and more wait.

Run `uv run --group bench python -m benchmarks.operations --rows 100000` for a first look.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final

from benchmarks.many_records import many_records

REPEATED: Final = 9
WAITING: Final = 50_000


def main() -> None:
    with many_records(__doc__, _add_waiting):
        print("| what | ms | CPU of this process, ms |\n|---|---:|---:|")
        for name, ask in questions().items():
            print(measure(name, ask))
        print(retry_all())


def _add_waiting() -> None:
    """Store calls that wait in the table, and let the failed ones be of a task that is there."""
    import uuid

    from django.utils.timezone import now

    from lambda_tasks.models import TaskRecord

    waiting = [
        TaskRecord(
            id=(id := uuid.uuid4()), root_id=id, task_name="tests.app.tasks.add", kwargs={"a": 1},
            queue="table", status="QUEUED", enqueued_at=now(), look_at=now(),
        )
        for _ in range(WAITING)
    ]  # fmt: skip
    TaskRecord.objects.bulk_create(waiting, batch_size=5_000)
    failed = TaskRecord.objects.filter(status="FAILED")
    failed.update(task_name="tests.app.tasks.add", kwargs={"a": 1}, queue="table")


def questions() -> Mapping[str, Callable[[], Any]]:
    from lambda_tasks import operations
    from lambda_tasks.records import listing

    def newest(**filters: Any) -> Callable[[], Any]:
        return lambda: listing.newest(filters, limit=50, search_all=False)  # type: ignore[arg-type]

    return {
        "stats": operations.stats,
        "health": operations.health,
        "list": newest(),
        "list of one task": newest(task="shop.tasks.task_7"),
        "list of FAILED": newest(status="FAILED"),
        "list of CANCELLED: none": newest(status="CANCELLED"),
        "list by error: none": newest(error="KeyError"),
        "list by argument: none": newest(arguments={"user_id": 7}),
    }


def measure(name: str, ask: Callable[[], Any]) -> str:
    walls, cpus = [], []
    for _ in range(REPEATED):
        wall, cpu = time.perf_counter(), time.process_time()
        ask()
        walls.append((time.perf_counter() - wall) * 1000)
        cpus.append((time.process_time() - cpu) * 1000)
    return f"| {name} | {median(walls):.0f} | {median(cpus):.0f} |"


def retry_all() -> str:
    from lambda_tasks import operations

    wall, cpu = time.perf_counter(), time.process_time()
    done = operations.retry(status="FAILED").done
    seconds, of_this = time.perf_counter() - wall, time.process_time() - cpu
    return f"{len(done):,} retried in {seconds:.1f} s, {of_this:.1f} s of CPU in this process"


if __name__ == "__main__":
    main()
