"""Settings: every error names the setting, the value and the fix, and `check` reports them all."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
from aiobotocore.session import AioSession
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections
from django.db.models import Model
from django.db.utils import ConnectionHandler

from lambda_tasks import checks, conf, lambda_task, registry
from lambda_tasks.queues.aws.client import CLIENT_OPTIONS
from lambda_tasks.queues.base import Queue
from lambda_tasks.queues.batch import BatchQueue
from lambda_tasks.queues.database import DatabaseQueue
from lambda_tasks.queues.sqs import SQSQueue

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"


@pytest.mark.skipif(connection.vendor == "postgresql", reason="its times have a zone themselves")
def test_a_database_with_a_time_zone_of_its_own_is_an_error_of_the_checks(monkeypatch: Any) -> None:
    monkeypatch.setattr(connections["default"], "timezone_name", "America/Chicago")

    assert [each.id for each in run_checks() if "TIME_ZONE" in each.msg] == ["lambda_tasks.E004"]


def test_times_without_a_zone_are_an_error_of_the_checks(settings: Any) -> None:
    settings.USE_TZ = False

    assert [each.id for each in run_checks() if "USE_TZ" in each.msg] == ["lambda_tasks.E004"]


class ModelsElsewhere:
    """A router that keeps the models of the project in a database without the task records."""

    def db_for_write(self, model: type[Model], **hints: object) -> str | None:
        return "shop" if model._meta.app_label == "app" else None


def test_records_in_another_database_than_the_models_are_warned_of(settings: Any) -> None:
    assert not [each for each in run_checks() if each.id == "lambda_tasks.W011"]

    settings.DATABASE_ROUTERS = [ModelsElsewhere()]

    (warning,) = [each for each in run_checks() if each.id == "lambda_tasks.W011"]
    assert "in the database 'default', and the project's models are not: app." in warning.msg
    assert "in 'shop'" in warning.msg


def test_aurora_dsql_is_refused_as_the_database_of_the_records(monkeypatch: Any) -> None:
    assert not [each for each in run_checks() if each.id == "lambda_tasks.E012"]
    monkeypatch.setitem(connections["default"].settings_dict, "ENGINE", "aurora_dsql_django")

    (error,) = [each for each in run_checks() if each.id == "lambda_tasks.E012"]
    assert "'aurora_dsql_django'. Aurora DSQL has no savepoints" in error.msg


def test_a_database_without_autocommit_is_an_error_of_the_checks(monkeypatch: Any) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "AUTOCOMMIT", False)

    (error,) = [each for each in run_checks() if each.id == "lambda_tasks.E007"]
    assert "DATABASES['default']['AUTOCOMMIT'] is False" in error.msg


def test_without_settings_there_is_a_database_queue_and_the_documented_defaults(
    settings: Any,
) -> None:
    for name in ("LAMBDA_TASKS_QUEUES", "LAMBDA_TASKS_AWS"):
        setattr(settings, name, None)  # a mere deletion sends no setting_changed
        delattr(settings, name)

    current = conf.current()

    assert current.queues == {"default": DatabaseQueue(name="default")}
    assert (current.default_soft_timeout, current.default_hard_timeout) == (270, 300)
    assert (current.max_retries, current.max_attempts, current.concurrency) == (2880, 5, 10)
    assert current.durable
    assert current.processes == conf.usable_cpus()


@pytest.mark.parametrize(
    ("value", "queue"),
    [
        (URL, SQSQueue(name="q", queue_url=URL)),
        ({"queue_url": URL}, SQSQueue(name="q", queue_url=URL)),
        ({"database": True}, DatabaseQueue(name="q")),
        (
            {"job_queue_arn": "arn:queue", "job_definition_arn": "arn:definition"},
            BatchQueue("q", "arn:queue", "arn:definition"),
        ),
    ],
)
def test_a_queue_is_written_in_each_of_its_forms(settings: Any, value: Any, queue: Queue) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": URL, "q": value}

    assert conf.current().queue("q") == queue


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("QUEUES", {}, "default"),
        ("QUEUES", "url", "dict"),
        ("QUEUES", {"other": URL}, "'default'"),
        ("QUEUES", {"default": "not-a-url"}, "https://sqs.REGION.amazonaws.com/"),
        ("QUEUES", {"default": f"{URL}\n"}, "Remove the white space"),
        ("QUEUES", {"default": {"queue_url": f" {URL}"}}, "Remove the white space"),
        ("QUEUES", {"default": {"queue_url": URL, "max_message_bytes": 256}}, "1,024 to 1,048,576"),
        ("QUEUES", {"default": {"queue_url": URL, "max_message_bytes": "256"}}, "whole number"),
        ("KEEP_SECRETS", 10**12, "from 0 to 315,360,000"),
        ("DEPLOYMENT_GRACE", -1, "from 0 to 1,209,600"),
        ("DEPLOYMENT_GRACE", 15 * 24 * 3600, "from 0 to 1,209,600"),
        ("DEPLOYMENT_GRACE", "1h", "a whole number"),
        ("SECRETS_KEYS", [b"k" * 40], "a key that is a bytes, but keys are str"),
        ("SECRETS_KEYS", "k" * 40, "is a str. Use a list of keys"),
        ("QUEUES", {"default": {"queue_url": URL, "more": 1}}, "queue_url"),
        ("QUEUES", {"default": {"database": False}}, "database"),
        ("QUEUES", {"default": {"job_queue_arn": "x"}}, "job_definition_arn"),
        ("DEFAULT_SOFT_TIMEOUT", 0, "from 1 up"),
        ("DEFAULT_HARD_TIMEOUT", "300", "whole number"),
        ("DEFAULT_HARD_TIMEOUT", 270, "not less"),
        ("EAGER", 1, "True or False"),
        ("LOG_GROUP", "aws lambda", "like '/aws/lambda/shop'"),
        ("LOCAL_WORKERS", -1, "from 0 up"),
        ("LOCAL_WORKERS", True, "whole number"),
        (
            "QUEUES",
            {"default": URL, "b": {"job_queue_arn": "x", "job_definition_arn": "y", "z": 1}},
            "direct",
        ),
        ("MAX_RETRIES", -1, "from 0 up"),
        ("MAX_ATTEMPTS", 0, "from 1 up"),
        ("CONCURRENCY", 0, "from 1 up"),
        ("PROCESSES", True, "whole number"),
        ("SINGLETON_CACHE", "", "Use the name of a cache in CACHES: 'default'"),
        ("SINGLETON_CACHE", "defualt", "Did you mean 'default'"),
        ("SINGLETON_CACHE", None, "Use the name of a cache"),
        ("MODULES", "tests", "list"),
        ("AWS", [], "dict"),
        ("AWS", {"region": "eu-west-1"}, "'region' is not an option .* Did you mean 'region_name'"),
        ("AWS", {"profile_name": "mine"}, "'profile_name' is not .* variable AWS_PROFILE"),
        ("AWS", {"read_timeout": 3}, "'read_timeout' is not .* into 'config'"),
        ("AWS", {1: 2}, "1 is not an option"),
        ("AWS", {"service_name": "sqs"}, "'service_name' is not an option"),
        ("AWS", {"config": {"retries": 1}}, "'config' is a dict. Use .*AioConfig"),
        ("AWS", {"endpoint_url": "localhost:4566"}, "Use a URL like https://HOST"),
        ("AWS", {"aws_access_key_id": "AKID"}, "aws_secret_access_key together"),
        ("CONCURENCY", 3, "Did you mean 'LAMBDA_TASKS_CONCURRENCY'"),
    ],
)
def test_an_error_names_the_setting_the_value_and_the_fix(
    settings: Any, name: str, value: Any, words: str
) -> None:
    setattr(settings, f"LAMBDA_TASKS_{name}", value)

    with pytest.raises(ImproperlyConfigured, match=words) as error:
        conf.current()

    assert f"LAMBDA_TASKS_{name}" in str(error.value)
    assert any(re.search(words, each.msg) for each in run_checks(tags=["lambda_tasks"]))


@pytest.mark.parametrize(
    "name", ["LAMBDA_TASK_QUEUES", "LAMBDATASKS_QUEUES", "LAMBDATASK_QUEUES", "LAMBDA_TASKSQUEUES"]
)
def test_a_setting_with_almost_the_right_prefix_is_an_error(settings: Any, name: str) -> None:
    setattr(settings, name, {"default": URL})

    with pytest.raises(ImproperlyConfigured, match=f"{name} is not .* 'LAMBDA_TASKS_QUEUES'"):
        conf.current()


def test_a_variable_of_awss_is_no_misspelled_setting(settings: Any) -> None:
    settings.LAMBDA_TASK_ROOT = "/var/task"

    conf.current()


@pytest.mark.parametrize(
    "modes",
    [
        {"EAGER": True, "LOCAL_WORKERS": 1},
        {"EAGER": True, "NOOP_EXECUTION": True},
        {"LOCAL_WORKERS": 2, "NOOP_EXECUTION": True},
    ],
)
def test_modes_exclude_one_another(settings: Any, modes: dict[str, Any]) -> None:
    for name, value in modes.items():
        setattr(settings, f"LAMBDA_TASKS_{name}", value)

    with pytest.raises(ImproperlyConfigured, match="exclude one another") as error:
        conf.current()

    assert all(name in str(error.value) for name in modes)


def test_all_errors_are_reported_at_once(settings: Any) -> None:
    settings.LAMBDA_TASKS_EAGER = "yes"
    settings.LAMBDA_TASKS_CONCURRENCY = 0

    assert len(run_checks(tags=["lambda_tasks"])) == 2


def test_a_value_of_the_aws_options_is_not_shown(settings: Any) -> None:
    settings.LAMBDA_TASKS_AWS = {
        "aws_secret_access_key": "hidden-key",
        "region_nmae": "hidden-region",
    }

    (found,) = run_checks(tags=["lambda_tasks"])

    assert "Did you mean 'region_name'" in found.msg
    assert "Set aws_access_key_id and" in found.msg
    assert "hidden" not in found.msg


def test_the_aws_options_are_those_of_a_client_of_aiobotocore(settings: Any) -> None:
    taken = inspect.signature(AioSession._create_client).parameters.keys()

    assert taken - {"self", "service_name"} <= CLIENT_OPTIONS
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    settings.LAMBDA_TASKS_AWS = dict.fromkeys(CLIENT_OPTIONS) | keys
    assert conf.current().aws


def test_the_singleton_cache_is_looked_up_in_the_caches_of_the_moment(settings: Any) -> None:
    settings.LAMBDA_TASKS_SINGLETON_CACHE = "locks"
    assert conf.errors()

    settings.CACHES = settings.CACHES | {"locks": settings.CACHES["default"]}

    assert not conf.errors()


def test_the_test_projects_tasks_pass_the_checks() -> None:
    assert run_checks(tags=["lambda_tasks"]) == []


def test_a_task_on_a_queue_that_is_gone_or_too_short_is_an_error(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    settings.LAMBDA_TASKS_DEFAULT_HARD_TIMEOUT = 8 * 24 * 3600

    found = run_checks(tags=["lambda_tasks"])

    assert found
    assert all(each.id == "lambda_tasks.E002" for each in found)
    assert any("tests.app.tasks.add: hard_timeout" in each.msg for each in found)


def test_a_task_with_secrets_on_a_queue_of_batch_is_an_error(
    settings: Any, monkeypatch: Any
) -> None:
    heavy = settings.LAMBDA_TASKS_QUEUES["heavy"]
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"other": heavy}
    settings.LAMBDA_TASKS_REDACT = ["a"]

    assert run_checks(tags=["lambda_tasks"]) == [], "none of these is on it"
    task = lambda_task(queue="other")(add_on_batch)
    monkeypatch.setattr(sys.modules[__name__], "add_on_batch", task)
    (found,) = run_checks(tags=["lambda_tasks"])
    assert "secret arguments (a), but the queue 'other' is an AWS Batch queue" in found.msg


def test_modules_that_can_not_be_imported_are_told_together(settings: Any) -> None:
    modules = [*settings.LAMBDA_TASKS_MODULES, "nowhere.at_all", "tests.app.broken"]
    settings.LAMBDA_TASKS_MODULES = modules
    registry._state["discovered"] = False
    try:
        found = run_checks(tags=["lambda_tasks"], include_deployment_checks=True)
        assert run_checks(tags=["lambda_tasks"], include_deployment_checks=True) == found
    finally:
        settings.LAMBDA_TASKS_MODULES = modules[:-2]
        registry.discover()

    told = [each.msg for each in found if each.id == "lambda_tasks.E006"]
    assert len(told) == 2
    assert not [each for each in found if each.msg.startswith("tests.app.broken.declare")]
    assert re.search(
        "'nowhere.at_all', of LAMBDA_TASKS_MODULES, can't .* ModuleNotFoundError: No module",
        told[0],
    )
    assert re.search("'tests.app.broken'.* ZeroDivisionError: .*broken.py, line [0-9]", told[1])


def test_a_redacted_name_that_no_task_has_is_warned_of(settings: Any, monkeypatch: Any) -> None:
    settings.LAMBDA_TASKS_REDACT = ["a", "pasword"]
    monkeypatch.setattr(registry, "_adapters", [])

    (warning,) = run_checks(tags=["lambda_tasks"])

    assert warning.id == "lambda_tasks.W008"
    assert "LAMBDA_TASKS_REDACT has 'pasword', but no task has" in warning.msg


def test_a_redacted_name_may_be_one_of_djangos_tasks(settings: Any) -> None:
    settings.LAMBDA_TASKS_REDACT = ["of_some_django_task"]

    assert run_checks(tags=["lambda_tasks"]) == []


def test_secrets_under_the_secret_key_are_a_deployment_warning(
    settings: Any, monkeypatch: Any
) -> None:
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32]
    secretive = lambda_task(durable=True)(keep_a_secret)
    monkeypatch.setattr(sys.modules[__name__], "keep_a_secret", secretive)
    assert deployment_ids() == ["lambda_tasks.W009"]
    settings.LAMBDA_TASKS_SECRETS_KEYS = ["k" * 32]
    assert deployment_ids() == []


def test_a_deployment_without_named_queues_is_warned_of(settings: Any) -> None:
    settings.LAMBDA_TASKS_SECRETS_KEYS = settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32]
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    assert "lambda_tasks.W010" not in deployment_ids()

    del settings.LAMBDA_TASKS_QUEUES
    conf.forget()

    assert "lambda_tasks.W010" in deployment_ids()
    assert "lambda_tasks.W010" not in [each.id for each in run_checks(tags=["lambda_tasks"])]
    settings.LAMBDA_TASKS_EAGER = True
    assert "lambda_tasks.W010" not in deployment_ids()


def deployment_ids() -> list[str | None]:
    return [each.id for each in run_checks(tags=["lambda_tasks"], include_deployment_checks=True)]


def test_without_its_app_a_call_says_what_is_missing(tmp_path: Path) -> None:
    output = run_script(
        tmp_path,
        "settings.configure(DATABASES=DATABASES, USE_TZ=True)",
        "django.setup()",
        "task.execute_on_commit(a=1)",
    )

    assert "'lambda_tasks' is not in INSTALLED_APPS" in output


def test_a_worker_without_a_settings_module_says_what_is_missing(tmp_path: Path) -> None:
    output = run_script(
        tmp_path,
        "settings.configure(DATABASES=DATABASES, USE_TZ=True, INSTALLED_APPS=['lambda_tasks'])",
        "django.setup()",
        "call_command('migrate', verbosity=0)",
        "call_command('lambda_tasks', 'worker', '--once')",
    )

    assert "The environment has no DJANGO_SETTINGS_MODULE" in output


def run_script(directory: Path, *lines: str) -> str:
    """Run a script that configures Django by itself; return its output."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(directory / "db")}
    script = [
        "import django",
        "from django.conf import settings",
        "from django.core.management import call_command",
        "from lambda_tasks import lambda_task",
        "@lambda_task",
        "def task(*, a: int) -> None: ...",
        f"DATABASES = {{'default': {database!r}}}",
        *lines,
    ]
    (directory / "script.py").write_text("\n".join(script))
    environment = {
        name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"
    }
    root = str(Path(__file__).parent.parent)
    process = subprocess.run(
        [sys.executable, "script.py"],
        cwd=directory,
        env=environment | {"PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert process.returncode != 0
    return process.stdout.decode()


def keep_a_secret(*, password: pydantic.SecretStr) -> None:
    pass


def add_on_batch(*, a: int) -> int:
    return a


def test_sqlite_is_warned_of_in_the_mode_in_which_tasks_lock_one_another_out(
    settings: Any, monkeypatch: Any
) -> None:
    default = ConnectionHandler({"default": {"ENGINE": "django.db.backends.sqlite3"}})
    monkeypatch.setattr(checks, "connections", default)

    (warning,) = run_checks(tags=["lambda_tasks"])
    assert warning.id == "lambda_tasks.W004"
    assert "'transaction_mode': 'IMMEDIATE'" in str(warning.hint)

    settings.LAMBDA_TASKS_EAGER = True
    assert run_checks(tags=["lambda_tasks"]) == []


@pytest.mark.parametrize(
    ("mode", "value", "id"),
    [
        ("NOOP_EXECUTION", True, "lambda_tasks.W001"),
        ("EAGER", True, "lambda_tasks.W002"),
        ("LOCAL_WORKERS", 2, "lambda_tasks.W003"),
    ],
)
def test_a_mode_that_is_not_for_production_is_a_deployment_warning(
    settings: Any, mode: str, value: Any, id: str
) -> None:
    setattr(settings, f"LAMBDA_TASKS_{mode}", value)
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32]

    assert run_checks(tags=["lambda_tasks"]) == []
    deployment = run_checks(tags=["lambda_tasks"], include_deployment_checks=True)
    assert [each.id for each in deployment] == [id]
