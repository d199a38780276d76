"""The code of docs/databases.md in a newcomer's project: PgBouncer, replicas, more databases."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.db import connection

from tests.conftest import starting
from tests.newcomer import ROOT, Newcomer, blocks
from tests.servers import PgBouncer, PostgresServer

SHOWN = blocks((ROOT / "docs/databases.md").read_text())

FURTHER = """
DATABASES["replica"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "replica"}
DATABASES["archive"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "archive"}
DATABASE_ROUTERS = ["mysite.routers.ReadsFromReplica"]
"""
ARCHIVE = """
from django.db import connections
from shop.models import Order
with connections["archive"].schema_editor() as editor:
    editor.create_model(Order)
"""
CALLS = """
from django.db import transaction
from shop.archive import archive
from shop.models import Order
from shop.tasks import copy_order, delete_order

class Refused(Exception):
    pass

kept = Order.objects.create(title="kept")
moved = Order.objects.create(title="moved")
copied = copy_order.execute_on_commit(order_id=kept.pk)
archive(moved)
try:
    with transaction.atomic(using="archive"):
        delete_order.using(using="archive").execute_on_commit(order_id=kept.pk)
        raise Refused
except Refused:
    pass
assert copied.record().status == "QUEUED"
"""
ENDED = """
from lambda_tasks.models import TaskRecord
from shop.models import Order

records = TaskRecord.objects.using("default")
assert [each.status for each in records.all()] == ["SUCCESS"] * 2, records.first().traceback
assert [each.title for each in Order.objects.using("default")] == ["kept"]
titles = sorted(each.title for each in Order.objects.using("archive"))
assert titles == ["kept", "moved"], titles
"""

PLAIN_TASKS = """
from django.db import connection
from lambda_tasks import SoftTimeLimitExceeded, TaskContext, lambda_task
from shop.models import Order

def pause():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.05)")

@lambda_task()
def rename(*, order_id: int) -> str:
    pause()
    titles = [each.title for each in Order.objects.filter(pk=order_id).iterator()]
    Order.objects.filter(pk=order_id).update(title="renamed")
    return titles[0]

@lambda_task(takes_context=True)
async def arename(context: TaskContext, *, order_id: int) -> str:
    await context.aprogress(1, total=2)
    order = await Order.objects.aget(pk=order_id)
    await Order.objects.filter(pk=order_id).aupdate(title="renamed")
    return order.title

@lambda_task(singleton=True)
def count() -> int:
    pause()
    return Order.objects.count()

@lambda_task(atomic=False, soft_timeout=2, hard_timeout=60)
def sleep() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(170)")
    except SoftTimeLimitExceeded:
        return "cancelled"
"""
POOLED_CALLS = """
from django.db import transaction
from shop.models import Order
from shop.tasks import arename, count, rename, sleep

for task in (rename, arename) * 10:
    with transaction.atomic():
        task.execute_on_commit(order_id=Order.objects.create(title="new").pk)
for task in (count, count, sleep):
    task.execute_on_commit()
"""
POOLED_ENDED = """
import time
from django.db import connection
from lambda_tasks.models import TaskRecord
from shop.models import Order

for _ in range(1500):
    if not TaskRecord.objects.filter(status__in=["QUEUED", "RUNNING"]).exists():
        break
    time.sleep(0.1)
ended = sorted((each.status, str(each.result)) for each in TaskRecord.objects.all())
wanted = [("SUCCESS", "20")] * 2 + [("SUCCESS", "cancelled")] + [("SUCCESS", "new")] * 20
assert ended == wanted, ended
assert Order.objects.filter(title="renamed").count() == 20
with connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(170)%'"
                   " AND state = 'active' AND pid <> pg_backend_pid()")
    assert cursor.fetchone() == (0,)
"""


@pytest.fixture
def several(tmp_path: Path) -> Newcomer:
    newcomer = Newcomer.with_first_task(tmp_path, settings=FURTHER)
    for file in ("mysite/routers.py", "shop/tasks.py", "shop/archive.py"):
        newcomer.write(file, SHOWN[file])
    newcomer.write("shop/views.py", "place_order = place_order_async = None")
    newcomer.write("mysite/urls.py", "urlpatterns = []")
    return newcomer


def test_records_stay_in_the_primary_and_calls_join_the_transaction_that_they_name(
    several: Newcomer,
) -> None:
    several.shell(ARCHIVE)

    several.shell(CALLS)
    several.command("worker", "--once")

    several.shell(ENDED)


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[Newcomer]:
    with ExitStack() as stack:
        with starting("pgbouncer"):
            server = stack.enter_context(PostgresServer())
            pooler = stack.enter_context(PgBouncer(server, pool_size=8))
        settings = f"DATABASES = {{'default': {pooler.django_database('shop')!r}}}\n"
        settings += SHOWN["mysite/settings.py"]
        newcomer = Newcomer.with_first_task(tmp_path, settings=settings)
        newcomer.write("shop/tasks.py", PLAIN_TASKS)
        newcomer.write("mysite/urls.py", "urlpatterns = []")
        newcomer.run("manage.py", "migrate")
        yield newcomer


@pytest.mark.skipif(connection.vendor != "postgresql", reason="PgBouncer is PostgreSQL's")
def test_more_tasks_than_a_pooler_has_connections_run_through_it(pooled: Newcomer) -> None:
    with pooled.running("lambda_tasks", "worker", "--processes", "2"):
        pooled.shell(POOLED_CALLS)
        pooled.shell(POOLED_ENDED)
