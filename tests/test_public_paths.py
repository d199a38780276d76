"""What users import, start and find: whatever moves inside, these paths stay."""

import ast
import os
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.core.checks import run_checks

import lambda_tasks
from lambda_tasks import LambdaTaskWrapper, registry
from tests.conftest import PATIENCE_S
from tests.newcomer import PAGES, ROOT, blocks

PREDECESSORS = [
    ("lambda_tasks.decorators", "lambda_task"),
    ("lambda_tasks.handler", "handler"),
    ("lambda_tasks.logging", "task_logger"),
    ("lambda_tasks.handler", "main"),
    ("lambda_tasks.models", "MaxRetriesExceededError"),
    ("lambda_tasks.models", "SQSLambdaTask"),
    ("lambda_tasks.models", "SQSLambdaTaskMessage"),
    ("lambda_tasks.models", "TaskRecord"),
    ("lambda_tasks.models", "TaskStatus"),
    ("lambda_tasks.tasks", "cleanup_task_records"),
    ("lambda_tasks.tasks", "submit_batch_job"),
    ("lambda_tasks.timeouts", "HardTimeLimitExceeded"),
    ("lambda_tasks.timeouts", "SoftTimeLimitExceeded"),
]
"""What users of django-lambda-tasks 0.8.1 import."""

DEPRECATED = [
    ("lambda_tasks.environment_loader", "resolve_environment"),
    ("lambda_tasks.secret_loader", "resolve_secrets_into_env"),
    ("lambda_tasks.settings", "LambdaTasksSettings"),
    ("lambda_tasks.settings", "MAX_BATCH_TIMEOUT"),
    ("lambda_tasks.settings", "MAX_DELAY"),
    ("lambda_tasks.settings", "MAX_TIMEOUT"),
    ("lambda_tasks.timeouts", "TimeoutContext"),
]
"""What they import, and is private by now."""

FILES_OF_THE_PREDECESSOR = [
    "__init__.py", "admin.py", "apps.py", "checks.py", "decorators.py", "environment_loader.py",
    "handler.py", "local_executor.py", "logging.py", "migrations/__init__.py",
    "migrations/0001_initial.py", "migrations/0002_alter_taskrecord_status.py",
    "migrations/0003_taskrecord_taskrecord_kwargs_trgm.py",
    "migrations/0004_remove_taskrecord_taskrecord_kwargs_trgm_and_more.py", "models.py",
    "secret_loader.py", "settings.py", "tasks.py", "timeouts.py",
]  # fmt: skip
"""The files of the package in 0.8.1."""

PACKAGE = Path(lambda_tasks.__file__).parent


def _shown_in_the_pages() -> list[tuple[str, str]]:
    """Modules of the package and names from them, as the blocks of Python import them."""
    statements = (
        node for text in PAGES.values() for code in blocks(text).values()
        for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)
    )  # fmt: skip
    return sorted(
        {
            (node.module, alias.name)
            for node in statements
            if node.module and node.module.partition(".")[0] == "lambda_tasks"
            for alias in node.names
        }
    )


def test_the_pages_show_imports() -> None:
    assert ("lambda_tasks", "lambda_task") in _shown_in_the_pages()
    assert len({module for module, _ in _shown_in_the_pages()}) >= 5


@pytest.mark.parametrize(("module", "name"), _shown_in_the_pages())
def test_what_the_pages_import_is_there_and_meant_for_users(module: str, name: str) -> None:
    found = import_module(module)

    assert hasattr(found, name)
    assert name in getattr(found, "__all__", [name]) or isinstance(getattr(found, name), ModuleType)


@pytest.mark.parametrize(("module", "name"), PREDECESSORS)
def test_what_users_of_the_predecessor_import_is_there(module: str, name: str) -> None:
    assert hasattr(import_module(module), name)


@pytest.mark.parametrize(("module", "name"), DEPRECATED)
def test_what_is_private_by_now_is_there_with_a_warning(module: str, name: str) -> None:
    with pytest.deprecated_call(match=f"{module}.{name} is a name of django-lambda-tasks"):
        assert getattr(import_module(module), name)


def test_other_names_are_missing_from_these_modules() -> None:
    for module, _ in DEPRECATED:
        with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
            _ = import_module(module).nothing


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("RUNNING", "RUNNING"),
        ("SUCCEEDED", "SUCCESS"),
        ("FAILED", "FAILED"),
        ("RETRIED", "RETRYING"),
    ],
)
def test_a_status_is_named_as_the_predecessor_names_it(name: str, status: str) -> None:
    from lambda_tasks.models import TaskRecord

    named = getattr(TaskRecord.TaskStatus, name)

    assert named == status
    assert TaskRecord(status=named).status == status
    assert [value for value, _ in TaskRecord.TaskStatus.choices].count(status) == 1


def test_the_predecessors_settings_are_read_as_they_are(settings: Any) -> None:
    with pytest.deprecated_call():
        from lambda_tasks.settings import LambdaTasksSettings
    found = LambdaTasksSettings()

    settings.LAMBDA_TASKS_MAX_RETRIES = 7

    assert (found.MAX_RETRIES, found.EAGER, found.SINGLETON_CACHE) == (7, False, "default")
    assert found.queue_max_timeout(queue="default") == 900
    assert "default" in found.QUEUES
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = found.NOTHING
    with pytest.raises(AttributeError, match="no attribute 'eager'"):
        _ = found.eager


def test_the_predecessors_time_limits_end_a_block(settings: Any) -> None:
    with pytest.deprecated_call():
        from lambda_tasks.timeouts import HardTimeLimitExceeded, TimeoutContext

    with pytest.raises(HardTimeLimitExceeded), TimeoutContext(soft_timeout=1, hard_timeout=1):
        time.sleep(PATIENCE_S)

    settings.LAMBDA_TASKS_EAGER = True
    with TimeoutContext(soft_timeout=1, hard_timeout=1):
        time.sleep(1.1)


def test_a_time_limit_that_interrupts_a_finalizer_is_raised_again(settings: Any) -> None:
    # Python goes on after an exception in __del__: the block would run without a limit.
    with pytest.deprecated_call():
        from lambda_tasks.timeouts import HardTimeLimitExceeded, TimeoutContext

    class Slow:
        def __del__(self) -> None:
            time.sleep(PATIENCE_S)

    with pytest.raises(HardTimeLimitExceeded), TimeoutContext(soft_timeout=1, hard_timeout=1):
        Slow()
        time.sleep(PATIENCE_S)


class Failing:
    def __del__(self) -> None:
        raise ValueError("its own")


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Python tells sys.unraisablehook."""
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    return reported


def test_a_time_limit_whose_place_a_finalizers_own_error_takes_is_raised_again(
    reported: list[Any],
) -> None:
    with pytest.deprecated_call():
        from lambda_tasks.timeouts import HardTimeLimitExceeded, TimeoutContext

    class Slow:
        def __del__(self) -> None:
            try:
                time.sleep(PATIENCE_S)
            finally:
                raise ValueError("its own")

    with pytest.raises(HardTimeLimitExceeded), TimeoutContext(soft_timeout=1, hard_timeout=1):
        Slow()
        time.sleep(PATIENCE_S)

    assert [str(each.exc_value) for each in reported] == ["its own"]


def test_a_time_limit_that_interrupts_the_report_of_a_finalizer_is_raised_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.deprecated_call():
        from lambda_tasks.timeouts import HardTimeLimitExceeded, TimeoutContext
    reported: list[Any] = []

    def report_slowly(unraisable: Any) -> None:
        time.sleep(1.2)
        reported.append(unraisable.exc_value)

    monkeypatch.setattr(sys, "unraisablehook", report_slowly)

    with pytest.raises(HardTimeLimitExceeded), TimeoutContext(soft_timeout=1, hard_timeout=1):
        Failing()
        time.sleep(PATIENCE_S)

    assert [str(each) for each in reported] == ["its own"]


def test_a_time_limit_that_is_handled_is_not_raised_again_for_a_finalizer_that_fails(
    reported: list[Any],
) -> None:
    with pytest.deprecated_call():
        from lambda_tasks.timeouts import SoftTimeLimitExceeded, TimeoutContext

    with TimeoutContext(soft_timeout=1, hard_timeout=60):
        try:
            time.sleep(PATIENCE_S)
        except SoftTimeLimitExceeded as limit:
            Failing()
            time.sleep(0.1)  # in which it would be raised again
            assert reported[0].exc_value.__context__ is limit

    assert [str(each.exc_value) for each in reported] == ["its own"]


def test_what_else_fails_in_a_finalizer_is_reported_as_without_a_limit(
    reported: list[Any],
) -> None:
    with pytest.deprecated_call():
        from lambda_tasks.timeouts import TimeoutContext

    with TimeoutContext(soft_timeout=60, hard_timeout=60):
        Failing()

    assert [str(each.exc_value) for each in reported] == ["its own"]
    assert sys.unraisablehook == reported.append


def test_the_predecessors_time_limits_may_be_nested_as_in_a_task() -> None:
    with pytest.deprecated_call():
        from lambda_tasks.timeouts import SoftTimeLimitExceeded, TimeoutContext

    with (
        pytest.raises(SoftTimeLimitExceeded, match="soft_timeout of 1 s"),
        TimeoutContext(soft_timeout=1, hard_timeout=60),
    ):
        with TimeoutContext(soft_timeout=30, hard_timeout=60):
            pass
        time.sleep(PATIENCE_S)
    with (
        pytest.raises(SoftTimeLimitExceeded, match="soft_timeout of 1 s"),
        TimeoutContext(soft_timeout=1, hard_timeout=60),
    ):
        with TimeoutContext(soft_timeout=30, hard_timeout=60):
            time.sleep(1.5)
        time.sleep(PATIENCE_S)


def test_a_task_tells_its_options_as_the_predecessors_do(settings: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "_tasks", {})
    settings.LAMBDA_TASKS_DEFAULT_SOFT_TIMEOUT = 5
    options: Any = {"queue": "q", "retry_on": (OSError,), "retry_delay": 3, "singleton": True}

    task = LambdaTaskWrapper(_nothing, hard_timeout=9, retry_singleton=False, **options)

    assert {name: getattr(task, name) for name in options} == options
    assert task.retry_singleton is False
    assert task.resolved_timeouts == (5, 9)
    assert registry.tasks() == [task]
    with pytest.raises(AttributeError):
        task.queue = "other"  # type: ignore[misc]


def test_a_task_that_is_made_by_hand_is_checked_as_by_the_decorator() -> None:
    with pytest.raises(TypeError, match="no option 'retry_no'"):
        LambdaTaskWrapper(_nothing, retry_no=(OSError,))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="soft_timeout"):
        LambdaTaskWrapper(_nothing, soft_timeout=9, hard_timeout=9)


def _nothing() -> None:
    """A task's function."""


def test_where_the_predecessor_is_installed_too_the_check_says_so(
    tmp_path: Path, monkeypatch: Any
) -> None:
    assert "lambda_tasks.E009" not in [each.id for each in run_checks()]
    (tmp_path / "django_lambda_tasks-0.8.1.dist-info").mkdir()
    metadata = tmp_path / "django_lambda_tasks-0.8.1.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: django-lambda-tasks\nVersion: 0.8.1\n")
    monkeypatch.syspath_prepend(tmp_path)

    [found] = [each for each in run_checks() if each.id == "lambda_tasks.E009"]

    assert found.msg.startswith("django-lambda-tasks 0.8.1 is installed, too")


@pytest.mark.parametrize("left", ["nothing", "the predecessor's files"])
def test_half_a_package_says_what_to_do(tmp_path: Path, left: str) -> None:
    """As `pip` leaves it, which removes or replaces files without asking whose they are."""
    package = tmp_path / "lambda_tasks"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES_OF_THE_PREDECESSOR:
        (package / name).unlink(missing_ok=True)
        if left != "nothing":
            (package / name).touch()
    (tmp_path / "conf.py").write_text("INSTALLED_APPS = ['lambda_tasks']\nSECRET_KEY = 'x'\n")
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "conf"}
    # A whole package anywhere would be found before a directory without __init__.py.
    check = f"""
import os, sys
sys.path[:] = [each for each in sys.path if not os.path.isdir(os.path.join(each, "lambda_tasks"))]
sys.path.insert(0, {str(tmp_path)!r})
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "check"])
"""

    done = subprocess.run(
        [sys.executable, "-c", check],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "ImproperlyConfigured: The package lambda_tasks is not whole" in done.stderr
    assert "pip install --force-reinstall --no-deps lambda-tasks" in done.stderr


def test_time_limits_are_the_same_exceptions_everywhere() -> None:
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
