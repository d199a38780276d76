"""What users import, start and find: whatever moves inside, these paths stay."""

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.newcomer import ROOT, blocks

PREDECESSORS = [
    ("lambda_tasks.decorators", "lambda_task"),
    ("lambda_tasks.handler", "handler"),
    ("lambda_tasks.logging", "task_logger"),
    ("lambda_tasks.models", "SQSLambdaTask"),
    ("lambda_tasks.models", "SQSLambdaTaskMessage"),
    ("lambda_tasks.models", "TaskRecord"),
    ("lambda_tasks.tasks", "cleanup_task_records"),
    ("lambda_tasks.tasks", "submit_batch_job"),
    ("lambda_tasks.timeouts", "HardTimeLimitExceeded"),
    ("lambda_tasks.timeouts", "SoftTimeLimitExceeded"),
]
"""What users of django-lambda-tasks 0.8.1 import."""


def _shown_in_the_readme() -> list[tuple[str, str]]:
    """Modules of the package and names from them, as its blocks of Python import them."""
    statements = (
        node for code in blocks().values() for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
    )  # fmt: skip
    return sorted(
        {
            (node.module, alias.name)
            for node in statements
            if node.module and node.module.partition(".")[0] == "lambda_tasks"
            for alias in node.names
        }
    )


def test_the_readme_shows_imports() -> None:
    assert ("lambda_tasks", "lambda_task") in _shown_in_the_readme()
    assert len({module for module, _ in _shown_in_the_readme()}) >= 5


@pytest.mark.parametrize(("module", "name"), _shown_in_the_readme())
def test_what_the_readme_imports_is_there_and_meant_for_users(module: str, name: str) -> None:
    found = import_module(module)

    assert hasattr(found, name)
    assert name in getattr(found, "__all__", [name])


@pytest.mark.parametrize(("module", "name"), PREDECESSORS)
def test_what_users_of_the_predecessor_import_is_there(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize("status", ["SUCCESS", "FAILED", "RETRYING", "RUNNING"])
def test_a_status_is_named_as_the_predecessor_names_it(status: str) -> None:
    from lambda_tasks.models import TaskRecord

    named = getattr(TaskRecord.TaskStatus, status)

    assert named == status
    assert TaskRecord(status=named).status == status


def test_time_limits_are_the_same_exceptions_everywhere() -> None:
    import lambda_tasks
    from lambda_tasks import timeouts

    assert timeouts.SoftTimeLimitExceeded is lambda_tasks.SoftTimeLimitExceeded
    assert timeouts.HardTimeLimitExceeded is lambda_tasks.HardTimeLimitExceeded


def test_the_module_that_a_job_starts_says_which_message_it_lacks() -> None:
    env = {name: value for name, value in os.environ.items() if name != "LAMBDA_TASKS_MESSAGE"}

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "lambda_tasks.handler"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "LAMBDA_TASKS_MESSAGE is not set" in done.stderr
    assert "Traceback" not in done.stderr


def test_pytest_finds_the_fixture_in_a_project_that_says_nothing_of_it(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_nothing.py").write_text("def test_nothing(captured_tasks): ...\n")
    of_this_run = {"DJANGO_SETTINGS_MODULE", "PYTEST_ADDOPTS", "PYTEST_PLUGINS"}
    env = {name: value for name, value in os.environ.items() if name not in of_this_run}

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--fixtures", "-p", "no:cacheprovider"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "captured_tasks" in done.stdout
    assert "Capture the test's calls instead of sending them" in done.stdout
