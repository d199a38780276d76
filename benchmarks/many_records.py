"""A database with a million records, for benchmarks of what looks at them."""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

SERVERS: Final[dict[str, type[PostgresServer] | type[MariaDBServer]]] = {
    "PostgreSQL": PostgresServer,
    "MariaDB": MariaDBServer,
}


@contextmanager
def many_records(description: str | None, add: Callable[[], None] = lambda: None) -> Iterator[str]:
    """A Django project on a server of its own, with records; the id of the newest.

    The command line says which server and how many. `add` stores further ones, before the database
    learns how they are distributed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--database", choices=SERVERS, default="PostgreSQL")
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    with SERVERS[chosen.database]() as server:
        database = server.django_database("many_records")
        os.environ["LAMBDA_TASKS_TEST_DATABASES"] = json.dumps({"default": database})
        os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
        import django

        django.setup()
        from django.core.management import call_command
        from django.db import connection

        from lambda_tasks.models import TaskRecord

        call_command("migrate", verbosity=0)
        newest = fill(chosen.rows)
        add()
        with connection.cursor() as cursor:
            analyze = "VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE TABLE"
            cursor.execute(f"{analyze} {TaskRecord._meta.db_table}")
        print(f"{chosen.database}, {chosen.rows:,} records, load {os.getloadavg()[0]:.1f}")
        yield newest


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
