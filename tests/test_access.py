"""LAMBDA_TASKS_ENDPOINTS: each mistake is an error that names the fix, and no secret."""

from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from lambda_tasks import conf, registry
from lambda_tasks.access import Bearer, Custom, Hmac, Open, Scope, Staff

SECRET = "a-secret-of-more-than-thirty-two-characters"


def test_every_kind_of_authenticator_is_read(settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {
        "health": "open",
        "status": [{"bearer": SECRET, "queues": ["default"]}, {"staff": True}],
        "record": [{"hmac": [SECRET, SECRET[::-1]], "window": 60, "results": True}],
        "tick": [],
        "purge": [{"staff": "shop.may_purge"}, {"callable": "shop.auth.may", "tasks": ["shop.a"]}],
    }

    assert conf.current().endpoints == {
        "health": (Open(),),
        "status": (
            Bearer(secrets=(SECRET,), scope=Scope(queues=frozenset({"default"}))),
            Staff(permission="lambda_tasks.view_taskrecord"),
        ),
        "record": (Hmac(keys=(SECRET, SECRET[::-1]), window_s=60, shows_results=True),),
        "tick": (),
        "purge": (
            Staff(permission="shop.may_purge"),
            Custom(path="shop.auth.may", scope=Scope(tasks=frozenset({"shop.a"}))),
        ),
    }


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "LAMBDA_TASKS_ENDPOINTS is a list. Use a dict like"),
        ({"heath": "open"}, "has the endpoint 'heath'. There are: 'health', .* mean 'health'?"),
        ({"status": "open"}, r"LAMBDA_TASKS_ENDPOINTS\['status'\] is 'open'. Only 'health' may be"),
        ({"health": "opne"}, "is a str. Use a list of authenticators, or 'open'"),
        ({"tick": {"bearer": SECRET}}, "is a dict. Use a list of authenticators"),
        ({"tick": [SECRET]}, r"\['tick'\]\[0\] is a str. Use a dict with one of 'bearer', 'hmac'"),
        ({"tick": [{}]}, "has nothing. Use exactly one of 'bearer', 'hmac', 'staff', 'callable'"),
        ({"tick": [{"baerer": SECRET}]}, "has 'baerer'. Use exactly one of"),
        ({"tick": [{"bearer": SECRET, "hmac": SECRET}]}, "has 'bearer', 'hmac'. Use exactly one"),
        ({"tick": [{"bearer": SECRET, "windw": 3}]}, "has the option 'windw'. There are"),
        ({"tick": [{"bearer": SECRET, "window": 3}]}, "has the option 'window'. There are"),
        (
            {"tick": [{"bearer": SECRET, "queues": ["default"]}]},
            "has the option 'queues'",
        ),
        ({"run": [{"bearer": SECRET, "tasks": ["a.b"]}]}, "has the option 'tasks'. There are"),
        ({"status": [{"bearer": SECRET, "results": True}]}, "has the option 'results'. There are"),
        ({"record": [{"bearer": SECRET, "results": 1}]}, "is 1. Use True or False"),
        ({"record": [{"bearer": SECRET, "tasks": []}]}, "Use a list of one or more names"),
        ({"record": [{"bearer": SECRET, "tasks": "shop.a"}]}, "Use a list of one or more names"),
        ({"record": [{"bearer": SECRET, "queues": ["defualt"]}]}, "'defualt', .* mean 'default'?"),
        (
            {"tick": [{"bearer": SECRET[:31]}]},
            r"\['bearer'\] has a secret of 31 characters. Use te",
        ),
        ({"tick": [{"hmac": [SECRET, 7]}]}, "has a secret of int. Use text of 32 characters"),
        ({"tick": [{"bearer": []}]}, "is empty. Use a secret, or a list"),
        ({"tick": [{"bearer": None}]}, "is a NoneType. Use a secret, or a list"),
        ({"tick": [{"bearer": f"{SECRET} {SECRET}"}]}, "characters that no header can carry"),
        ({"tick": [{"bearer": f"{SECRET}\N{SNOWMAN}"}]}, "characters that no header can carry"),
        ({"tick": [{"hmac": SECRET, "window": 0}]}, "is 0. Use a whole number of seconds from 1"),
        ({"tick": [{"hmac": SECRET, "window": 3601}]}, "is 3601. Use a whole number of seconds"),
        ({"tick": [{"hmac": SECRET, "window": True}]}, "is True. Use a whole number of seconds"),
        ({"tick": [{"staff": False}]}, "is False. Use True, or a permission like 'lambda_tasks.re"),
        ({"tick": [{"staff": "may tick"}]}, "is 'may tick'. Use True, or a permission"),
        ({"tick": [{"callable": print}]}, "Use the dotted path of a function"),
        ({"tick": [{"callable": "may_tick"}]}, "is 'may_tick'. Use the dotted path of a function"),
    ],
)
def test_a_mistake_is_told_with_its_fix_and_without_the_secret(
    value: Any, told: str, settings: Any
) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = value

    with pytest.raises(ImproperlyConfigured, match=told) as raised:
        conf.current()

    assert SECRET[:31] not in str(raised.value)
    assert [each.id for each in run_checks() if "LAMBDA_TASKS_ENDPOINTS" in each.msg] == [
        "lambda_tasks.E008"
    ]


def test_all_mistakes_are_told_at_once(settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {
        "helth": "open",
        "status": "open",
        "tick": [{"bearer": "short", "windw": 3}, {"staff": 1}],
        "purge": [{"hmac": SECRET, "queues": ["defualt", "tabel"]}],
    }

    told = [each.msg for each in run_checks() if each.id == "lambda_tasks.E008"]

    for words in ("'helth'", "['status'] is", "5 characters", "'windw'", "['tick'][1]['staff']"):
        assert len([each for each in told if words in each]) == 1, words
    assert len(told) == 5
    settings.LAMBDA_TASKS_ENDPOINTS = {"purge": settings.LAMBDA_TASKS_ENDPOINTS["purge"]}
    queues = [each.msg for each in run_checks() if each.id == "lambda_tasks.E008"]
    assert ["'defualt'" in each for each in queues] == [True, False]


def test_secrets_are_in_no_repr(settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {"tick": [{"bearer": SECRET}, {"hmac": SECRET}]}

    assert SECRET not in repr(conf.current()) + repr(conf.current().endpoints)


def _warnings(id: str) -> list[str]:
    return [each.msg for each in run_checks() if each.id == f"lambda_tasks.{id}"]


def test_urls_that_nobody_may_call_are_warned_of(settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {}
    (warning,) = _warnings("W013")
    assert "lambda_tasks.urls" in warning

    settings.LAMBDA_TASKS_ENDPOINTS = {"health": "open"}
    assert _warnings("W013") == []

    settings.LAMBDA_TASKS_ENDPOINTS = {}
    settings.ROOT_URLCONF = "tests.test_access"
    assert _warnings("W013") == []


urlpatterns: list[Any] = []


@pytest.mark.parametrize(
    "path", ["shop.auth.may", "tests.test_access.may", "tests.test_access.SECRET"]
)
def test_a_function_that_is_not_there_is_an_error_of_the_checks(path: str, settings: Any) -> None:
    settings.LAMBDA_TASKS_ENDPOINTS = {"tick": [{"callable": path}]}

    (error,) = _warnings("E011")
    assert f"LAMBDA_TASKS_ENDPOINTS['tick'] names {path!r}" in error

    settings.LAMBDA_TASKS_ENDPOINTS = {"tick": [{"callable": "tests.test_access._warnings"}]}
    assert _warnings("E011") == []


def test_a_task_that_is_not_there_is_warned_of(settings: Any) -> None:
    names = ["add", "tests.app.tasks.add", "tests.app.tasks.gone"]
    settings.LAMBDA_TASKS_ENDPOINTS = {"purge": [{"hmac": SECRET, "tasks": names}]}

    bare, gone = _warnings("W015")

    assert "'add', which is not a task. Did you mean " in bare
    assert "'tests.app.tasks.add'" in bare
    assert "'tests.app.tasks.gone'" in gone


def test_a_task_whose_module_can_not_be_imported_is_not_said_to_be_missing(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_tasks.py").write_text("raise TypeError('wrong')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._state, "discovered", False)
    settings.LAMBDA_TASKS_MODULES = ["broken_tasks"]
    settings.LAMBDA_TASKS_ENDPOINTS = {"purge": [{"hmac": SECRET, "tasks": ["broken_tasks.a"]}]}

    assert _warnings("W015") == []
    assert "broken_tasks" in _warnings("E006")[0]
