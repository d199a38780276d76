"""What operators ask among a million records, of which ten thousand have failed and more wait.

Run `uv run --group bench python -m benchmarks.operations --rows 100000` for a first look.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final

from benchmarks.admin_list import SERVERS, fill

REPEATED: Final = 9
WAITING: Final = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=SERVERS, default="PostgreSQL")
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with SERVERS[chosen.database]() as server:
        database = server.django_database("operations")
        os.environ["LAMBDA_TASKS_TEST_DATABASES"] = json.dumps({"default": database})
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        fill(chosen.rows)
        _add_waiting()
        with connection.cursor() as cursor:
            table = "lambda_tasks_taskrecord"
            postgres = connection.vendor == "postgresql"
            cursor.execute(f"VACUUM ANALYZE {table}" if postgres else f"ANALYZE TABLE {table}")
        print(f"{chosen.database}, {chosen.rows:,} records, load {os.getloadavg()[0]:.1f}")
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
