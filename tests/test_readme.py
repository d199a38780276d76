"""The README's own code, in a project made as a newcomer makes it."""

from pathlib import Path

import pytest

from tests.newcomer import BLOCK, README, Newcomer, blocks

VISITS = """
from django.conf import settings
from django.test import AsyncClient, Client
from asgiref.sync import async_to_sync
from lambda_tasks.models import TaskRecord

settings.ALLOWED_HOSTS = ["testserver"]
assert Client().post("/orders/", {"title": "Kindred"}).status_code == 202
assert async_to_sync(AsyncClient().post)("/async/", {"title": "Solaris"}).status_code == 202
assert TaskRecord.objects.count() == 2
"""
BOTH_DONE = """
from lambda_tasks.models import TaskRecord

statuses = [record.status for record in TaskRecord.objects.all()]
assert statuses == ["SUCCESS", "SUCCESS"], statuses
"""
LATER = """
import time
from lambda_tasks.models import TaskRecord
from shop import tasks

for call in (
    tasks.count_stock.execute_on_commit(title="Emma"),
    tasks.charge.execute_on_commit(order_id=1, cents=250),
    tasks.tell.execute_on_commit(order_id=1),
):
    call.result(timeout=180)
due = TaskRecord.objects.filter(run_after=None)
for _ in range(600):
    if not due.exclude(status="SUCCESS").exists():
        break
    time.sleep(0.1)
failed = due.exclude(status="SUCCESS")
assert not failed.exists(), failed[0].traceback
assert due.count() == 2 + 1 + 25 + 1 + 1 + 5 + 3 + 1, due.count()
"""


@pytest.fixture
def beginner(tmp_path: Path) -> Newcomer:
    return Newcomer.with_first_task(tmp_path)


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    newcomer, shown = Newcomer(tmp_path), blocks()
    newcomer.begin()
    settings = "INSTALLED_APPS += ['shop']\n" + shown.pop("mysite/settings.py")
    newcomer.write("mysite/settings.py", settings, add=True)
    del shown["manage.py shell"]
    for file, code in shown.items():
        newcomer.write(file, code)
    newcomer.migrate()
    return newcomer


def test_every_block_of_python_names_its_file() -> None:
    assert len(BLOCK.findall(README)) == README.count("```python\n")


def test_the_first_task_runs_with_the_first_two_settings_and_a_worker(beginner: Newcomer) -> None:
    beginner.run("manage.py", "check", "--fail-level", "WARNING")
    beginner.run("manage.py", "shell", stdin=VISITS)
    beginner.run("manage.py", "lambda_tasks", "worker", "--once")
    beginner.run("manage.py", "shell", stdin=BOTH_DONE)


def test_what_the_readme_shows_works_as_it_says(newcomer: Newcomer) -> None:
    newcomer.run("manage.py", "check")
    newcomer.run("manage.py", "test")
    with newcomer.developing():
        newcomer.run("manage.py", "shell", stdin=VISITS)
        newcomer.run("manage.py", "shell", stdin=blocks()["manage.py shell"])
        newcomer.run("manage.py", "shell", stdin=LATER)
