"""A run of `manage.py lambda_tasks dev`, as its processes know it: by variables that no other
process obeys, and least of all one in production."""

import json
from dataclasses import asdict, astuple
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import CommandError

from lambda_tasks import conf
from lambda_tasks.local_run import KEYS_VARIABLE, SQS_VARIABLE, LocalRun, RunKeys

ADDRESS = "http://127.0.0.1:4566"
KEYS = RunKeys(access_key="a" * 43, secret_key="b" * 43, signing_key="c" * 43)
OWN_KEYS = ["the-projects-own-key-of-32-characters"]


@pytest.fixture(autouse=True)
def read_anew() -> Any:
    conf.forget()
    yield
    conf.forget()


def enter(monkeypatch: pytest.MonkeyPatch, run: LocalRun) -> None:
    for name, value in run.environment().items():
        monkeypatch.setenv(name, value)


def test_a_process_of_a_run_sends_to_its_sqs_with_its_keys(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    settings.LAMBDA_TASKS_SIGNING_KEYS = []
    enter(monkeypatch, LocalRun(ADDRESS, KEYS))

    current = conf.current()

    assert current.queue("default").queue_url == f"{ADDRESS}/000000000000/default"  # type: ignore[attr-defined]
    assert current.queue("table").is_table
    assert current.aws == {
        "endpoint_url": ADDRESS,
        "region_name": "us-east-1",
        "aws_access_key_id": KEYS.access_key,
        "aws_secret_access_key": KEYS.secret_key,
    }
    assert current.signing_keys == (KEYS.signing_key,)


def test_a_project_that_signs_keeps_its_keys(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    settings.LAMBDA_TASKS_SIGNING_KEYS = OWN_KEYS
    enter(monkeypatch, LocalRun(ADDRESS, KEYS))

    assert conf.current().signing_keys == tuple(OWN_KEYS)


def test_without_an_sqs_the_table_is_every_queue(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    enter(monkeypatch, LocalRun())

    assert all(queue.is_table for queue in conf.current().queues.values())


@pytest.mark.parametrize("run", [LocalRun(ADDRESS, KEYS), LocalRun()], ids=["sqs", "table"])
def test_in_production_it_is_refused_with_what_to_do(
    settings: Any, monkeypatch: pytest.MonkeyPatch, run: LocalRun
) -> None:
    settings.DEBUG = False
    enter(monkeypatch, run)

    with pytest.raises(
        ImproperlyConfigured, match=rf"{SQS_VARIABLE} is set.*DEBUG is False.*Remove"
    ):
        conf.current()

    assert [each for each in run_checks(tags=["lambda_tasks"]) if SQS_VARIABLE in each.msg]
    settings.DEBUG = True
    assert conf.current()


@pytest.mark.parametrize(
    "address",
    [
        "http://sqs.evil.example:4566",
        "https://sqs.eu-west-1.amazonaws.com",
        "http://10.0.0.7:4566",
        "http://0.0.0.0:4566",
        "http://127.0.0.1.evil.example:4566",
        "http://127.0.0.1:4566@evil.example",
        "http://evil.example\\@127.0.0.1:4566",
        "http://evil.example#127.0.0.1:4566",
        "http://127.0.0.1:4566/path",
        "http://127.0.0.1:4566\n",
        "http://localhost:4566",
        "http://127.1:4566",
        "127.0.0.1:4566",
    ],
)
def test_only_an_address_on_loopback_is_obeyed(
    settings: Any, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    settings.DEBUG = True
    enter(monkeypatch, LocalRun(ADDRESS, KEYS))
    monkeypatch.setenv(SQS_VARIABLE, address)

    with pytest.raises(ImproperlyConfigured, match=f"{SQS_VARIABLE} is not an address on loopback"):
        conf.current()


@pytest.mark.parametrize(
    "keys",
    [
        None,
        "",
        "[]",
        "null",
        KEYS.secret_key,
        json.dumps({"access_key": "a" * 43, "secret_key": KEYS.secret_key}),
        json.dumps(asdict(KEYS) | {"signing_key": "short"}),
        json.dumps(asdict(KEYS) | {"access_key": 2}),
        json.dumps(asdict(KEYS) | {"more": "d" * 43}),
    ],
)
def test_keys_that_are_none_are_told_without_their_values(
    settings: Any, monkeypatch: pytest.MonkeyPatch, keys: str | None
) -> None:
    settings.DEBUG = True
    monkeypatch.setenv(SQS_VARIABLE, ADDRESS)
    if keys is None:
        monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(KEYS_VARIABLE, keys)

    with pytest.raises(ImproperlyConfigured, match=f"{KEYS_VARIABLE} does not hold") as error:
        conf.current()

    assert KEYS.secret_key not in str(error.value)


def test_no_repr_shows_a_key() -> None:
    shown = repr(LocalRun(ADDRESS, KEYS))

    assert ADDRESS in shown
    assert not [key for key in astuple(KEYS) if key in shown]


def test_dev_says_that_it_needs_debug(settings: Any) -> None:
    settings.DEBUG = False

    with pytest.raises(CommandError, match="Set DEBUG = True"):
        call_command("lambda_tasks", "dev")
