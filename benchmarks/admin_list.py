"""What the admin's list costs among a million records: statements, and their time.

Run `uv run --group bench python -m benchmarks.admin_list --rows 100000` for a first look.
"""

import argparse
import json
import os
import uuid
from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from typing import Any, Final

from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

SERVERS: Final[dict[str, type[PostgresServer] | type[MariaDBServer]]] = {
    "PostgreSQL": PostgresServer,
    "MariaDB": MariaDBServer,
}
REPEATED: Final = 7
CHUNK: Final = 5_000
LIST: Final = "/admin/lambda_tasks/taskrecord/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=SERVERS, default="PostgreSQL")
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with SERVERS[chosen.database]() as server:
        database = server.django_database("admin_list")
        os.environ["LAMBDA_TASKS_TEST_DATABASES"] = json.dumps({"default": database})
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        sought = fill(chosen.rows)
        with connection.cursor() as cursor:
            table = "lambda_tasks_taskrecord"
            postgres = connection.vendor == "postgresql"
            cursor.execute(f"VACUUM ANALYZE {table}" if postgres else f"ANALYZE TABLE {table}")
        print(f"{chosen.database}, {chosen.rows:,} records, load {os.getloadavg()[0]:.1f}")
        print("| list | statements | slowest, ms | all, ms |\n|---|---:|---:|---:|")
        for name, query in queries(sought).items():
            print(measure(name, query))


def fill(rows: int) -> str:
    """Store finished records of a week, 1% of them failed, 20 unfinished; return an id."""
    from django.utils.timezone import now

    from lambda_tasks.models import TaskRecord

    start, step = now() - timedelta(days=7), timedelta(days=7) / rows
    for begin in range(0, rows, CHUNK):
        records = list(_records(begin, min(begin + CHUNK, rows), start, step))
        TaskRecord.objects.bulk_create(records)
    return str(records[0].pk)


def _records(begin: int, end: int, start: Any, step: timedelta) -> Iterator[Any]:
    from lambda_tasks.models import TaskRecord

    for number in range(begin, end):
        at, id = start + number * step, uuid.uuid4()
        status = "QUEUED" if not number % 50_000 else "SUCCESS" if number % 100 else "FAILED"
        failed = {
            "exception_class": "shop.Wrong",
            "traceback": "Traceback\n" * 40 + "shop.Wrong: x",
        }
        yield TaskRecord(
            id=id, root_id=id, task_name=f"shop.tasks.task_{number % 20}", queue="default",
            kwargs={"order_id": number, "note": "some text"}, status=status, enqueued_at=at,
            sent_at=at, look_at=at if status == "QUEUED" else None,
            start_time=at + timedelta(seconds=1), worker_ids="worker-1:7\n", result={"total": number},
            end_time=None if status == "QUEUED" else at + timedelta(seconds=2),
            **(failed if status == "FAILED" else {}),
        )  # fmt: skip


def queries(sought: str) -> dict[str, dict[str, str]]:
    from django.utils.timezone import now

    middle = (now() - timedelta(days=3)).isoformat()
    return {
        "newest": {},
        "page 20": {"p": "20"},
        "older, from the middle": {"before": middle},
        "FAILED": {"status__exact": "FAILED"},
        "CANCELLED: none": {"status__exact": "CANCELLED"},
        "QUEUED": {"status__exact": "QUEUED"},
        "one task": {"task_name__exact": "shop.tasks.task_7"},
        "a task without records": {"task_name__exact": "shop.tasks.gone"},
        "one task, FAILED": {"task_name__exact": "shop.tasks.task_0", "status__exact": "FAILED"},
        "a queue without records": {"queue__exact": "other"},
        "past 7 days": {"enqueued_at__gte": (now() - timedelta(days=7)).isoformat(" ")},
        "the beginning of an id": {"q": sought[:8]},
        "a whole id": {"q": sought},
        "a text in arguments": {"q": "no such text"},
        "by duration": {"o": "-4"},
    }


def measure(name: str, query: dict[str, str]) -> str:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    user = User.objects.filter(username="anna").first() or User.objects.create_superuser("anna")
    client = Client()
    client.force_login(user)
    runs: list[list[float]] = []
    for _ in range(REPEATED):
        with CaptureQueriesContext(connection) as captured:
            answered = client.get(LIST, query)
        assert answered.status_code == 200, answered.status_code
        ours = [each for each in captured if "lambda_tasks_" in each["sql"]]
        runs.append([float(each["time"]) * 1000 for each in ours])
    if os.environ.get("SHOW"):
        for each in ours:
            print(each["time"], each["sql"][:100], "...", each["sql"][-400:])
    slowest, total = median(max(run) for run in runs), median(sum(run) for run in runs)
    return f"| {name} | {len(runs[0])} | {slowest:.0f} | {total:.0f} |"


if __name__ == "__main__":
    main()
