"""What the admin's list costs among a million records: statements, and their time.

Run `uv run --group bench python -m benchmarks.admin_list --rows 100000` for a first look.
"""

import argparse
import json
import os
from datetime import timedelta
from statistics import median
from typing import Final

from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

SERVERS: Final[dict[str, type[PostgresServer] | type[MariaDBServer]]] = {
    "PostgreSQL": PostgresServer,
    "MariaDB": MariaDBServer,
}
REPEATED: Final = 7
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
    """Store finished records of a week, 1% of them failed, a few unfinished; return an id."""
    from django.db import connection

    from lambda_tasks.models import TaskRecord

    names = ", ".join(COLUMNS)
    values = ", ".join(COLUMNS.values())
    numbers = NUMBERS[connection.vendor].format(rows=rows)
    for own, theirs in DIALECTS[connection.vendor].items():
        values = values.replace(own, theirs)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TaskRecord._meta.db_table} ({names}) SELECT {values} FROM {numbers}"
        )
    newest = TaskRecord.objects.order_by("-enqueued_at").values_list("pk", flat=True).first()
    return str(newest)


COLUMNS: Final = {
    "id": "UUID",
    "root_id": "NULL",
    "task_name": "CONCAT('shop.tasks.task_', n % 20)",
    "queue": "'default'",
    "kwargs": '\'{"order_id": 7, "note": "some text"}\'',
    "status": "CASE WHEN n % 50000 = 0 THEN 'QUEUED' WHEN n % 100 = 0 THEN 'FAILED'"
    " ELSE 'SUCCESS' END",
    "priority": "0",
    "enqueued_at": "AGO(n)",
    "sent_at": "AGO(n)",
    "start_time": "AGO(n)",
    "end_time": "CASE WHEN n % 50000 = 0 THEN NULL ELSE AGO(n) END",
    "look_at": "CASE WHEN n % 50000 = 0 THEN AGO(n) END",
    "result": "'7'",
    "exception_class": "CASE WHEN n % 100 = 0 THEN 'shop.Wrong' END",
    "traceback": "CASE WHEN n % 100 = 0 THEN REPEAT('a line of a traceback', 40) END",
    "worker_ids": "'worker-1:7'",
    "n_retries": "0",
    "n_continues": "0",
    "n_attempts": "1",
    "n_waits": "0",
}
NUMBERS: Final = {
    "postgresql": "generate_series(1, {rows}) AS numbers(n)",
    "mysql": "(SELECT seq AS n FROM seq_1_to_{rows}) numbers",
}
DIALECTS: Final = {
    "postgresql": {
        "UUID": "gen_random_uuid()",
        "AGO(n)": "NOW() - n * INTERVAL '0.6 seconds'",
        "some text\"}'": "some text\"}'::jsonb",
        "'7'": "'7'::jsonb",
    },
    "mysql": {"UUID": "UUID()", "AGO(n)": "UTC_TIMESTAMP(6) - INTERVAL n * 600000 MICROSECOND"},
}


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
    slowest, total = median(max(run) for run in runs), median(sum(run) for run in runs)
    return f"| {name} | {len(runs[0])} | {slowest:.0f} | {total:.0f} |"


if __name__ == "__main__":
    main()
