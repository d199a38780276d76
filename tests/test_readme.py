"""The README's own code, in a project made as a newcomer makes it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from lambda_tasks.local import LocalSqs
from lambda_tasks.local.sqs_server import make_client
from tests.servers.process import free_port

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

PORT = free_port()
BLOCK = re.compile(r"^```python\n# (?P<file>[^\n]+)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)

MODELS = """
from django.db import models

class Order(models.Model):
    title = models.CharField(max_length=200)
"""
URLS = """
from django.urls import path
from shop import views

urlpatterns = [path("orders/", views.place_order), path("async/", views.place_order_async)]
"""
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
    call.result(timeout=60)
due = TaskRecord.objects.filter(run_after=None)
for _ in range(600):
    if not due.exclude(status="SUCCESS").exists():
        break
    time.sleep(0.1)
failed = due.exclude(status="SUCCESS")
assert not failed.exists(), failed[0].traceback
assert due.count() == 2 + 1 + 25 + 1 + 1 + 3 + 1, due.count()
"""


def _blocks() -> dict[str, str]:
    """What the README shows of each file, one after the other."""
    files: dict[str, str] = {}
    for block in BLOCK.finditer(README):
        files[block["file"]] = files.get(block["file"], "") + block["code"]
    return files


class Newcomer:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def run(self, *command: str, stdin: str | None = None) -> None:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self._directory,
            env=self._environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def write(self, file: str, text: str, *, add: bool = False) -> None:
        path = self._directory / file
        path.write_text((path.read_text() if add else "") + text)

    @contextmanager
    def running(self, file: str) -> Iterator[None]:
        process = subprocess.Popen(
            [sys.executable, file], cwd=self._directory, env=self._environment()
        )
        try:
            yield
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def _environment(self) -> dict[str, str]:
        mine = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LAMBDA_TASKS", "DJANGO_", "AWS_"))
        }
        return mine | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def beginner(tmp_path: Path) -> Newcomer:
    """As far as the first task."""
    newcomer = Newcomer(tmp_path)
    newcomer.run("-m", "django", "startproject", "mysite", ".")
    newcomer.run("manage.py", "startapp", "shop")
    newcomer.write("shop/models.py", MODELS)
    newcomer.write("mysite/urls.py", URLS)
    first: dict[str, str] = {}
    for block in BLOCK.finditer(README):
        first.setdefault(block["file"], block["code"])
    settings = "INSTALLED_APPS += ['shop']\n" + first["mysite/settings.py"]
    newcomer.write("mysite/settings.py", settings, add=True)
    for file in ("shop/tasks.py", "shop/views.py"):
        newcomer.write(file, first[file])
    newcomer.run("manage.py", "makemigrations", "shop")
    newcomer.run("manage.py", "migrate")
    return newcomer


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    newcomer, port, blocks = Newcomer(tmp_path), str(PORT), _blocks()
    newcomer.run("-m", "django", "startproject", "mysite", ".")
    newcomer.run("manage.py", "startapp", "shop")
    newcomer.write("shop/models.py", MODELS)
    newcomer.write("mysite/urls.py", URLS)
    settings = blocks.pop("mysite/settings.py").replace("9324", port)
    newcomer.write("mysite/settings.py", "INSTALLED_APPS += ['shop']\n" + settings, add=True)
    newcomer.write("run_lambda.py", blocks.pop("run_lambda.py").replace("9324", port))
    del blocks["manage.py shell"]
    for file, code in blocks.items():
        newcomer.write(file, code)
    newcomer.run("manage.py", "makemigrations", "shop")
    newcomer.run("manage.py", "migrate")
    return newcomer


def _wait_for_the_queue() -> None:
    client = make_client(LocalSqs(port=PORT).client_options)
    for _ in range(200):
        with suppress(BotoCoreError, ClientError):
            client.get_queue_url(QueueName="default")
            return
        time.sleep(0.1)
    raise AssertionError("run_lambda.py has made no queue")


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
    with newcomer.running("run_lambda.py"):
        _wait_for_the_queue()
        newcomer.run("manage.py", "shell", stdin=VISITS)
        newcomer.run("manage.py", "shell", stdin=_blocks()["manage.py shell"])
        newcomer.run("manage.py", "shell", stdin=LATER)
