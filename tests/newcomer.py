"""A project as a newcomer makes it: startproject, startapp, and a first task."""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

from tests.conftest import PATIENCE_S, wait_for
from tests.servers.process import free_port, listens

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^```python\n# (?P<file>[\w/]+\.py(?: shell)?)(?P<remark>, [^\n]+)?\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
"""A block of Python, which names its file and perhaps the place in it."""


def _pages() -> dict[str, str]:
    """The README and the documentation's pages, by their names, in their order for a reader."""
    index = (ROOT / "docs" / "index.md").read_text()
    names = [
        f"docs/{name}.md" for name in ("index", *re.findall(r"^[a-z-]+$", index, re.MULTILINE))
    ]
    return {name: (ROOT / name).read_text() for name in ("README.md", *names)}


PAGES = _pages()

SHOP = {
    "mysite/settings.py": """
INSTALLED_APPS += ["lambda_tasks", "shop"]
DATABASES["default"]["OPTIONS"] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 30,
    "init_command": "PRAGMA journal_mode=WAL;",
}
""",
    "mysite/urls.py": """
from django.urls import path
from shop import views

urlpatterns = [path("orders/", views.place_order), path("async/", views.place_order_async)]
""",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    title = models.CharField(max_length=200)
""",
    "shop/tasks.py": """
from lambda_tasks import lambda_task, task_logger
from shop.models import Order

@lambda_task
def print_invoice(*, order_id: int, copies: int = 1) -> str:
    return f"{copies} x {Order.objects.get(pk=order_id).title}"

@lambda_task(soft_timeout=25, hard_timeout=30)
async def confirm(*, order_id: int) -> None:
    order = await Order.objects.aget(pk=order_id)
    task_logger.info("confirming %s", order.title)
""",
    "shop/views.py": """
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from shop.models import Order
from shop.tasks import confirm, print_invoice

def place_order(request: HttpRequest) -> JsonResponse:
    with transaction.atomic():
        order = Order.objects.create(title=request.POST["title"])
        invocation = print_invoice.execute_on_commit(order_id=order.pk)
    return JsonResponse({"invocation": invocation.id}, status=202)

async def place_order_async(request: HttpRequest) -> JsonResponse:
    order = await Order.objects.acreate(title=request.POST["title"])
    invocation = await confirm.aexecute_on_commit(order_id=order.pk)
    return JsonResponse({"invocation": invocation.id}, status=202)
""",
}
"""A shop with one task of each kind, and a view for each."""


def blocks(text: str) -> dict[str, str]:
    """What a page shows of each file, one after the other."""
    files: dict[str, str] = {}
    for block in BLOCK.finditer(text):
        files[block["file"]] = files.get(block["file"], "") + block["code"]
    return files


class Newcomer:
    """A project in a directory of its own, which knows of the library and of nothing here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env: dict[str, str] = {}

    @classmethod
    def with_first_task(cls, directory: Path, *, settings: str = "") -> Self:
        """A shop that has begun, and these settings."""
        shutil.copytree(_first_task(), directory, dirs_exist_ok=True)
        newcomer = cls(directory)
        newcomer.write("mysite/settings.py", f"\n{settings}\n", add=True)
        return newcomer

    def begin(self) -> None:
        """A project and an app."""
        self.run("-m", "django", "startproject", "mysite", ".")
        self.run("manage.py", "startapp", "shop")

    def migrate(self) -> None:
        """Make and run the migrations."""
        self.run("manage.py", "makemigrations", "shop")
        self.run("manage.py", "migrate")

    def run(self, *command: str, stdin: str | None = None, timeout_s: float = PATIENCE_S) -> str:
        """What it has printed; it must end well."""
        done = self._run(command, stdin, timeout_s)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_with_errors(self, *command: str) -> str:
        """What it has printed, standard error first; it must end well."""
        done = self._run(command, None, PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr + done.stdout

    def shell(self, code: str, *, timeout_s: float = PATIENCE_S) -> str:
        """Code for `manage.py shell`."""
        return self.run("manage.py", "shell", stdin=code, timeout_s=timeout_s)

    def command(self, *arguments: str, stdin: str | None = None) -> str:
        """`manage.py lambda_tasks` with these arguments."""
        return self.run("manage.py", "lambda_tasks", *arguments, stdin=stdin)

    def fail(self, *arguments: str, stdin: str | None = None) -> str:
        """What such a command has printed; it must end badly."""
        done = self._run(["manage.py", "lambda_tasks", *arguments], stdin, PATIENCE_S)
        assert done.returncode != 0
        return done.stdout + done.stderr

    def _run(
        self, command: Sequence[str], stdin: str | None, timeout_s: float
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.directory,
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def write(self, file: str, text: str, *, add: bool = False) -> None:
        path = self.directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if add else "") + text)

    @contextmanager
    def running(self, *command: str) -> Iterator["subprocess.Popen[str]"]:
        """A command of manage.py, until the body ends; it is waited for."""
        with self.ending(*command) as process:
            yield process
            assert process.poll() is None, "".join(self.lines)
            process.send_signal(signal.SIGINT)

    @contextmanager
    def ending(self, *command: str) -> Iterator["subprocess.Popen[str]"]:
        """A command of manage.py that the body ends; it is waited for."""
        process = subprocess.Popen(
            [sys.executable, "manage.py", *command],
            cwd=self.directory,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=self.lines.extend, args=(process.stdout,))
        reader.start()
        try:
            yield process
        except BaseException:
            process.send_signal(signal.SIGINT)
            raise
        finally:
            process.wait(timeout=PATIENCE_S)
            reader.join()
            process.stdout.close()
            print("".join(self.lines))  # for who looks into a failure

    @contextmanager
    def developing(self, *options: str) -> Iterator[None]:
        """`dev`, whose server answers in the body at `url`."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with self.running("lambda_tasks", "dev", *options, f"127.0.0.1:{port}"):
            wait_for(lambda: listens(port))
            yield

    def environment(self) -> dict[str, str]:
        mine = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LAMBDA_TASKS", "DJANGO_", "AWS_", "PYTHON"))
        }
        return mine | {"PYTHONPATH": f"{self.directory}{os.pathsep}{ROOT}"} | self.env


@cache
def _first_task() -> Path:
    """Made once, as it takes a while."""
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory)
    newcomer = Newcomer(directory)
    newcomer.begin()
    for file, code in SHOP.items():
        newcomer.write(file, code, add=file == "mysite/settings.py")
    newcomer.migrate()
    return directory
