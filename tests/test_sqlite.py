"""SQLite as the README sets it up: one writer at a time, and nobody waits for a task that reads."""

from pathlib import Path

from tests.conftest import wait_for
from tests.newcomer import Newcomer

TASKS = """
import asyncio
import time
from pathlib import Path

from django.db import connection, transaction
from lambda_tasks import TaskContext, lambda_task
from lambda_tasks.models import TaskRecord
from shop.models import Order


def wait_for(gate, name):
    Path(name).touch()
    for _ in range(1800):
        if Path(gate).exists():
            return
        time.sleep(0.1)
    raise TimeoutError(gate)


@lambda_task
def read_then_write(*, order_id: int) -> None:
    order = Order.objects.get(pk=order_id)
    wait_for("gate", f"{order.title}.started")
    order.title += " done"
    order.save()


@lambda_task
async def aread_then_write(*, order_id: int) -> None:
    order = await Order.objects.aget(pk=order_id)
    await asyncio.to_thread(wait_for, "gate", f"{order.title}.started")
    order.title += " done"
    await order.asave()


@lambda_task(takes_context=True)
def show(context: TaskContext, *, order_id: int) -> None:
    context.progress(1, 2, "reads")
    wait_for("gate", f"{Order.objects.get(pk=order_id).title}.started")
    context.progress(2, 2, "has read")


def trace(execute, sql, params, many, context):
    return execute(sql, params, many, context)


@lambda_task
def write_and_be_traced() -> list[bool]:
    was_traced = trace in connection.execute_wrappers
    if not was_traced:
        connection.execute_wrappers.append(trace)
    Order.objects.create(title="traced")
    return [was_traced]


@lambda_task
def write_and_fail() -> None:
    Order.objects.create(title="never")
    raise ValueError("after it has written")


@lambda_task
def write_while_reading() -> int:
    orders = Order.objects.filter(title__startswith="row").iterator(chunk_size=1)
    first = next(orders)
    wait_for("written", "reading")
    first.title = "row changed"
    first.save()
    return first.pk


@lambda_task
def lock() -> None:
    with transaction.atomic():
        Order.objects.get(title="locked")
        wait_for("tried", "has_locked")
"""
ENQUEUE = """
from shop import tasks
from shop.models import Order

for task in (tasks.read_then_write, tasks.aread_then_write, tasks.show):
    task.execute_on_commit(order_id=Order.objects.create(title=task.__name__).pk)
"""
THE_SITE_WRITES = """
from django.conf import settings
from django.test import Client
from lambda_tasks.models import RunProgress, TaskRecord

settings.ALLOWED_HOSTS = ["testserver"]
settings.DATABASES["default"]["OPTIONS"]["timeout"] = 1
assert Client().post("/orders/", {"title": "Kindred"}).status_code == 202
assert TaskRecord.objects.filter(status="RUNNING").count() == 3
assert RunProgress.objects.get().progress["text"] == "reads"
"""
ALL_DONE = """
import time
from lambda_tasks.models import TaskRecord
from shop.models import Order

for _ in range(1800):
    if not TaskRecord.objects.filter(status__in=["QUEUED", "RUNNING"]).exists():
        break
    time.sleep(0.1)
assert {record.status for record in TaskRecord.objects.all()} == {"SUCCESS"}
titles = sorted(Order.objects.values_list("title", flat=True))
assert titles == ["Kindred", "aread_then_write done", "read_then_write done", "show"], titles
"""
FAILS = """
from lambda_tasks.models import TaskRecord
from shop import tasks
from shop.models import Order

tasks.write_and_fail.execute_on_commit()
"""
NOTHING_IS_LEFT = """
from lambda_tasks.models import TaskRecord
from shop.models import Order

assert TaskRecord.objects.get().status == "FAILED"
assert not Order.objects.exists()
"""
READS_ROWS = """
from shop import tasks
from shop.models import Order

for number in range(2):
    Order.objects.create(title=f"row {number}")
tasks.write_while_reading.execute_on_commit()
"""
ANOTHER_WRITES = """
from shop.models import Order
Order.objects.create(title="another's")
"""
ROW_IS_CHANGED = """
import time
from lambda_tasks.models import TaskRecord
from shop.models import Order

for _ in range(1800):
    if TaskRecord.objects.get().end_time:
        break
    time.sleep(0.1)
assert TaskRecord.objects.get().status == "SUCCESS", TaskRecord.objects.get().traceback
assert Order.objects.filter(title="row changed").count() == 1
"""
LOCKS = """
from shop import tasks
from shop.models import Order

Order.objects.create(title="locked")
tasks.lock.execute_on_commit()
"""
NOBODY_WRITES = """
from django.conf import settings
from django.db import OperationalError
from shop.models import Order

settings.DATABASES["default"]["OPTIONS"]["timeout"] = 0
try:
    Order.objects.update(title="stolen")
except OperationalError:
    pass
else:
    raise AssertionError("an atomic block of the task's own is a transaction from its start")
"""
TESTS = """
import pytest
from lambda_tasks.testing import arun_enqueued
from shop import tasks
from shop.models import Order


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.django_db
@pytest.mark.parametrize("time", [1, 2])
async def test_a_view_enqueues(captured_tasks, async_client, time):
    assert await Order.objects.acount() == 0, "a test leaves nothing behind"
    answer = await async_client.post("/async/", {"title": "Emma"})
    assert answer.status_code == 202
    (record,) = await captured_tasks.arun()
    assert record.status == "SUCCESS"


@pytest.mark.anyio
@pytest.mark.django_db(transaction=True)
async def test_a_task_commits(captured_tasks):
    order = await Order.objects.acreate(title="Emma")
    await tasks.print_invoice.aexecute_on_commit(order_id=order.pk)
    (record,) = await arun_enqueued()
    assert record.result == "1 x Emma"


@pytest.mark.django_db
def test_a_sync_one_finds_nothing(captured_tasks):
    assert not Order.objects.exists()
"""


def with_tasks(directory: Path) -> Newcomer:
    newcomer = Newcomer.with_first_task(directory)
    newcomer.write("shop/tasks.py", TASKS, add=True)
    return newcomer


def test_the_site_writes_while_tasks_that_have_read_take_long(tmp_path: Path) -> None:
    newcomer = with_tasks(tmp_path)
    newcomer.shell(ENQUEUE)

    with newcomer.running("lambda_tasks", "worker", "--processes", "2"):
        for name in ("read_then_write", "aread_then_write", "show"):
            wait_for((tmp_path / f"{name}.started").exists)
        newcomer.shell(THE_SITE_WRITES)
        (tmp_path / "gate").touch()
        newcomer.shell(ALL_DONE)


def test_a_tracer_that_comes_within_a_task_stays(tmp_path: Path) -> None:
    newcomer = with_tasks(tmp_path)
    newcomer.shell(
        "from shop.tasks import write_and_be_traced as task\n"
        "for _ in range(2): task.execute_on_commit()"
    )

    newcomer.command("worker", "--once", "--processes", "1")

    newcomer.shell(
        "from lambda_tasks.models import TaskRecord\n"
        "results = [record.result for record in TaskRecord.objects.all()]\n"
        "assert sorted(results) == [[False], [True]], results"
    )


def test_a_task_that_fails_leaves_nothing(tmp_path: Path) -> None:
    newcomer = with_tasks(tmp_path)
    newcomer.shell(FAILS)

    newcomer.command("worker", "--once")

    newcomer.shell(NOTHING_IS_LEFT)


def test_a_task_that_writes_while_it_reads_begins_again_where_another_has_written(
    tmp_path: Path,
) -> None:
    newcomer = with_tasks(tmp_path)
    newcomer.shell(READS_ROWS)

    with newcomer.running("lambda_tasks", "worker"):
        wait_for((tmp_path / "reading").exists)
        newcomer.shell(ANOTHER_WRITES)
        (tmp_path / "written").touch()
        newcomer.shell(ROW_IS_CHANGED)


def test_what_a_task_reads_in_a_block_of_its_own_nobody_changes(tmp_path: Path) -> None:
    newcomer = with_tasks(tmp_path)
    newcomer.shell(LOCKS)

    with newcomer.running("lambda_tasks", "worker"):
        wait_for((tmp_path / "has_locked").exists)
        try:
            newcomer.shell(NOBODY_WRITES)
        finally:
            (tmp_path / "tried").touch()


def test_async_tests_of_pytest_roll_back_and_lock_nobody_out(tmp_path: Path) -> None:
    newcomer = Newcomer.with_first_task(tmp_path)
    newcomer.write("shop/test_tasks.py", TESTS)

    newcomer.run("-m", "pytest", "-p", "no:randomly", "--ds=mysite.settings", "shop/test_tasks.py")
