"""The rules of the house, as tests."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import lambda_tasks
from lambda_tasks import Invocation, LambdaTaskWrapper
from lambda_tasks.backends import LambdaTask, LambdaTasksBackend
from lambda_tasks.enqueue.modes import ModeSender
from lambda_tasks.enqueue.on_commit import Enqueuer
from lambda_tasks.payload import SQSLambdaTask
from lambda_tasks.testing import CapturedTasks

PACKAGE = Path(lambda_tasks.__file__).parent
WITH_TWINS = [
    LambdaTaskWrapper, Invocation, SQSLambdaTask, Enqueuer, ModeSender, LambdaTasksBackend,
    LambdaTask, CapturedTasks,
]  # fmt: skip
TWINS = [
    (each, name)
    for each in WITH_TWINS
    for name, member in vars(each).items()
    if inspect.iscoroutinefunction(member) and not name.startswith("_") and hasattr(each, name[1:])
]


def test_there_are_twins_to_compare() -> None:
    assert len(TWINS) >= 7


@pytest.mark.parametrize(("owner", "name"), TWINS)
def test_twins_have_one_signature_and_one_description(owner: Any, name: str) -> None:
    twin, original = getattr(owner, name), inspect.unwrap(getattr(owner, name[1:]))

    assert inspect.signature(twin) == inspect.signature(original)
    assert (twin.__doc__ or "").startswith(f"See {name[1:]}()")


@pytest.mark.parametrize(("page", "least"), [("ARCHITECTURE.md", 19), ("SECURITY.md", 13)])
def test_every_window_and_promise_names_tests_that_are_there(page: str, least: int) -> None:
    root = PACKAGE.parent
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (root / page).read_text())

    assert len(named) >= least
    for path, name in named:
        functions = [
            node.name
            for node in ast.walk(ast.parse((root / path).read_text()))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        assert name in functions, f"{path} has no {name}"


Floor = tuple[list[str], bool]
"""Rooms that stand side by side, and whether they know nothing of each other."""


def _floors_of_the_contract() -> list[Floor]:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    [contract] = [
        each for each in project["tool"]["importlinter"]["contracts"] if each["type"] == "layers"
    ]
    return [(re.findall(r"\w+", floor), "|" in floor) for floor in contract["layers"]]


def _floors_of_the_picture() -> list[Floor]:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    picture = text.partition("## The floors")[2].split("```")[1]
    # What a floor is for stands in a column of its own, after its rooms.
    lines = [line.rstrip() for line in picture.strip("\n").splitlines()]
    words_begin = len(lines[0]) - len(lines[0].rsplit("  ", 1)[1].lstrip())
    floors = []
    for line in lines:
        rooms, words = line[:words_begin], line[words_begin:]
        assert rooms.endswith(" "), line
        assert not words.startswith(" "), line
        floors.append((re.findall(r"\w+", rooms), "|" in rooms))
    return floors


def test_the_picture_of_the_floors_is_the_contract_that_imports_are_held_to() -> None:
    contract = _floors_of_the_contract()

    assert _floors_of_the_picture() == contract
    rooms = {room for floor, _ in contract for room in floor}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    no_rooms = {"__init__", "__pycache__", "locale", "migrations", "static", "templates"}
    assert rooms == there - no_rooms


def test_the_public_names_are_there() -> None:
    assert sorted(lambda_tasks.__all__) == lambda_tasks.__all__
    assert all(hasattr(lambda_tasks, name) for name in lambda_tasks.__all__)


def test_the_pytest_plugin_loads_nothing_before_a_test_uses_it() -> None:
    # pytest imports it in every project of an environment, with Django or without.
    code = (
        "import sys, pytest; before = set(sys.modules); import lambda_tasks.testing.plugin; "
        "print(sorted(sys.modules.keys() - before))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )

    assert ast.literal_eval(done.stdout) == [
        "lambda_tasks", "lambda_tasks.lazy", "lambda_tasks.testing", "lambda_tasks.testing.plugin",
    ]  # fmt: skip


@pytest.mark.parametrize("package", ["lambda_tasks", "lambda_tasks.testing"])
def test_the_public_names_are_those_of_the_package(package: str) -> None:
    module = importlib.import_module(package)

    assert set(module.__all__) <= set(dir(module))
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'unknown'"):
        getattr(module, "unknown")  # noqa: B009


def test_importing_the_handler_loads_neither_aws_nor_the_admin() -> None:
    code = (
        "import sys, lambda_tasks.handler; "
        "print([name for name in ('aiobotocore', 'botocore', 'boto3', 'redis', 'multiprocessing',"
        " 'django.contrib.admin') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )

    assert done.stdout.strip() == "[]"


def test_only_the_functions_own_process_warms_up_as_it_imports_the_handler() -> None:
    code = (
        "import importlib, multiprocessing; "
        "process = multiprocessing.get_context('spawn').Process("
        "target=importlib.import_module, args=('lambda_tasks.handler',)); "
        "process.start(); process.join(); print(process.exitcode); "
        "import lambda_tasks.handler"
    )
    environment = {"AWS_LAMBDA_RUNTIME_API": "nowhere", "DJANGO_SETTINGS_MODULE": "are_not_there"}

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
        env=os.environ | environment,
    )

    assert done.stdout.strip() == "0", done.stderr
    assert "No module named 'are_not_there'" in done.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    module = ast.parse(path.read_text())
    is_migration = path.parent.name == "migrations" and path.name == "__init__.py"

    assert is_migration or ast.get_docstring(module)


def test_a_process_that_has_enqueued_ends_without_a_word(sqs: Any, queue: str) -> None:
    code = """
import os, asyncio, django
django.setup()
from django.conf import settings
from lambda_tasks import lambda_task
from tests.app import tasks
tasks.add_direct.execute_on_commit(a=1)
asyncio.run(tasks.aadd_direct.aexecute_on_commit(a=2))
if os.fork() == 0:
    tasks.add_direct.execute_on_commit(a=3)
    raise SystemExit(0)
os.wait()
"""

    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=PACKAGE.parent,
    )

    # asyncio's debug mode tells of whatever took long, which a busy machine may well do.
    words = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, done.stdout, words) == (0, "", [])
