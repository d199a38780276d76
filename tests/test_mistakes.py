"""Mistakes of a project's developer: each is an error that names what is wrong, and the fix."""

import asyncio
import copy
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any
from uuid import uuid4

import pydantic
import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation

from lambda_tasks import Invocation, lambda_task, registry
from lambda_tasks.models import SQSLambdaTask, TaskRecord
from lambda_tasks.testing import CapturedTasks, assert_idempotent, run_enqueued
from lambda_tasks.workflows import group
from tests.app import tasks

MODULE = "tests.app.made_by_a_test"
HEAD = """
import functools
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal
from django.contrib.auth.models import User
from lambda_tasks import TaskContext, lambda_task
if TYPE_CHECKING:
    from somewhere import Missing

class Colour(Enum):
    RED = "red"

@dataclass
class Paint:
    colour: Literal[Colour.RED]

@dataclass
class Ticket:
    user: "Missing"

def traced(function):
    @functools.wraps(function)
    def run(**kwargs):
        return function(**kwargs)
    return run
"""

Declare = Callable[[str], ModuleType]


@pytest.fixture
def declare(monkeypatch: Any) -> Declare:
    """Make a module of this source."""

    def make(source: str) -> ModuleType:
        module = ModuleType(MODULE)
        monkeypatch.setitem(sys.modules, MODULE, module)
        exec(HEAD + source, vars(module))
        return module

    return make


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("lambda_task(lambda: None)", "A lambda in .*Write it as a `def`"),
        ("lambda_task(functools.partial(print, 1))", "a partial has no name.*Write a function"),
        ("@lambda_task\ndef f(*, a: int):\n    yield a", "f can't be a task: it is a generator"),
        ("@lambda_task\nasync def f(*, a: int):\n    yield a", "f .* a generator.*`yield`"),
        ("@lambda_task\nclass F: pass", "F'> can't be a task, as it is no function"),
        (
            "class F:\n    @lambda_task\n    def f(self): pass",
            r"F\.f can't be.*out of its function",
        ),
        ("class F:\n    def f(self): pass\nlambda_task(F().f)", r"F\.f can't be a task"),
        ("class F:\n    def __call__(self): pass\nlambda_task(F())", "is no function"),
        ("@lambda_task\n@lambda_task\ndef f(): pass", "f is a task already"),
        ("@lambda_task\ndef f(ctx: TaskContext): pass", "'ctx' .*takes_context=True.*first"),
        ("@lambda_task\ndef f(context): pass", "'context'.*takes_context=True.*`context: TaskCo"),
        ("@lambda_task(queue=['a'])\ndef f(): pass", r"f: queue is \['a'\]\. Use the name of one"),
        (
            "@lambda_task(takes_context=True)\ndef f(self, *, a: int): pass",
            "Rename 'self': its fir",
        ),
        (
            "@lambda_task(takes_context=True)\ndef f(ctx: TaskContext): pass",
            "'context'. Rename 'ct",
        ),
        (
            "@lambda_task(takes_context=True)\ndef f(*, a: int): pass",
            "'context'. Add it: its first",
        ),
    ],
)
def test_what_can_be_no_task_is_refused_at_its_decoration(
    declare: Declare, source: str, words: str
) -> None:
    with pytest.raises(TypeError, match=words):
        declare(source)


@pytest.mark.parametrize(
    ("source", "call", "words"),
    [
        ("def _f(*, a: int): pass\nf = lambda_task(_f)", {"a": 1}, "_f by this name, and there"),
        ("@traced\n@lambda_task\ndef f(*, a: int): pass", {"a": 1}, "above all its other decora"),
        ("def f(): pass\ng = lambda_task(f)\nf = lambda_task(queue='other')(f)", {}, "f by this"),
        ("@lambda_task\ndef f(*, c: Literal[Colour.RED]): pass", {}, "'c'.*Annotate it as Colour"),
        ("@lambda_task\ndef f(*, c: list[Paint]): pass", {}, "'c' with a Literal of Colour.RED"),
        ("@lambda_task\ndef f(*, o: 'User | None'): pass", {}, "f: 'o' is the Django model User"),
        ("@lambda_task\ndef f(*, o: list[User]): pass", {}, "f: 'o' .*Pass its primary key"),
        ("@lambda_task\ndef f(*, o: 'Missing'): pass", {}, "f: the annotation of 'o' is 'Missing'"),
        ("@lambda_task\ndef f(*, o: Ticket): pass", {}, "f has .*'o'.*'Missing'.*TYPE_CHECKING"),
    ],
)
def test_what_a_worker_could_not_run_is_refused_by_the_check_and_by_the_call(
    declare: Declare, source: str, call: dict[str, Any], words: str
) -> None:
    module = declare(source)
    [task] = [each for each in registry.tasks() if each.name.startswith(MODULE)]
    two_of_one_name = getattr(module, "g", None)
    enqueued: Any = two_of_one_name or task

    with pytest.raises(TypeError, match=words):
        enqueued.execute_on_commit(**call)
    if two_of_one_name is None:
        [found] = run_checks(tags=["lambda_tasks"])
        assert found.id == "lambda_tasks.E002"
        assert found.msg.startswith(f"{task.name}: ")


def test_a_task_may_be_declared_without_the_decorators_syntax(declare: Declare) -> None:
    module = declare("def f(*, a: int): pass\nf = lambda_task(queue='other')(f)")

    assert module.f.using(delay=3).serialize(a=1)["queue"] == "other"
    assert run_checks(tags=["lambda_tasks"]) == []


def test_a_return_annotation_that_only_checkers_can_read_does_no_harm(declare: Declare) -> None:
    module = declare("@lambda_task\ndef f(*, a: int) -> 'Missing': pass")

    assert module.f.serialize(a=1)["message"]["kwargs"] == {"a": 1}
    assert run_checks(tags=["lambda_tasks"]) == []


@pytest.mark.parametrize(
    ("source", "call", "words"),
    [
        ("data: bytes", {"data": b"\xff"}, r"f: the argument 'data' .*base64\.b64encode\(\)"),
        ("data: Any", {"data": [b"\xff"]}, r"f: the argument 'data' .*base64\.b64encode\(\)"),
        ("data: Any, a: int", {"data": {"a": object()}, "a": 1}, "f: the argument 'data' .*Annot"),
    ],
)
def test_an_argument_that_is_no_json_is_refused_by_name(
    declare: Declare, source: str, call: dict[str, Any], words: str
) -> None:
    module = declare(f"@lambda_task\ndef f(*, {source}): pass")

    with pytest.raises(TypeError, match=words):
        module.f.execute_on_commit(**call)


@pytest.mark.parametrize("form", ["execute_many_on_commit", "aexecute_many_on_commit"])
@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ({"a": 1}, r"tests\.app\.tasks\.add: the calls are one mapping, of \['a'\]\. Pass a list"),
        ([{"a": 1}, 3], r"tests\.app\.tasks\.add: .* can't be of the type int\..*mapping"),
        (["ab"], "the arguments of a call can't be of the type str"),
    ],
)
def test_many_calls_are_a_list_of_mappings(form: str, calls: Any, words: str) -> None:
    async def call() -> None:
        await tasks.add.aexecute_many_on_commit(calls)

    with pytest.raises(TypeError, match=words):
        if form.startswith("a"):
            asyncio.run(call())
        else:
            tasks.add.execute_many_on_commit(calls)


@pytest.mark.parametrize("name", ["delay", "delay_on_commit", "apply_async", "enqueue", "defer"])
def test_the_call_forms_of_other_libraries_name_ours(name: str) -> None:
    with pytest.raises(
        AttributeError,
        match=rf"The task tests\.app\.tasks\.add has no '{name}'\. .*execute_on_commit\(",
    ):
        getattr(tasks.add, name)(a=1)

    assert not hasattr(tasks.add, name)


@pytest.mark.parametrize("name", ["s", "si", "signature", "map", "chunks"])
def test_celerys_signatures_name_our_steps(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"add has no '{name}'\. .*`step\(\.\.\.\)`"):
        getattr(tasks.add, name)(a=1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("apply", "call it like a function"),
        ("retry", r"raise lambda_tasks\.Retry\(delay="),
        ("request", "takes_context=True"),
        ("update_state", r"context\.progress\("),
        ("replace", r"add_steps\("),
        ("AsyncResult", r"lambda_tasks\.Invocation\(id\)"),
    ],
)
def test_what_celerys_tasks_have_names_what_ours_have(name: str, words: str) -> None:
    with pytest.raises(AttributeError, match=rf"has no '{name}'\. .*{words}"):
        getattr(tasks.add, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("get", r"result\(timeout=.*A view answers with `id`"),
        ("wait", r"result\(timeout="),
        ("ready", r"record\(\)\.status"),
        ("status", r"record\(\)\.status"),
        ("revoke", r"record\(\)\.cancel\(\)"),
        ("task_id", "Its id is `id`"),
    ],
)
def test_what_celerys_results_have_names_what_an_invocation_has(name: str, words: str) -> None:
    invocation = copy.copy(Invocation(uuid4()))

    with pytest.raises(AttributeError, match=rf"has no '{name}'\. .*{words}"):
        getattr(invocation, name)
    assert not hasattr(invocation, "colour")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("bind", "takes_context"),
        ("autoretry_for", "retry_on"),
        ("default_retry_delay", "retry_delay"),
        ("rate_limit", "rate"),
        ("time_limit", "hard_timeout"),
        ("soft_time_limit", "soft_timeout"),
    ],
)
def test_celerys_options_of_a_task_name_ours(declare: Declare, theirs: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f"no option '{theirs}'. Did you mean '{ours}'"):
        declare(f"@lambda_task({theirs}=1)\ndef f(): pass")


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ("countdown", "Did you mean 'delay'"),
        ("eta", "Did you mean 'run_after'"),
        ("prioriti", "Did you mean 'priority'"),
        ("colour", "There are: delay, run_after, queue"),
    ],
)
def test_an_unknown_option_of_a_call_is_told_with_the_right_one(theirs: str, words: str) -> None:
    options: Any = {theirs: 1}

    with pytest.raises(TypeError, match=rf"using\(\) has no option '{theirs}'\. {words}"):
        tasks.add.using(**options)


@pytest.mark.parametrize("name", ["countdown", "eta", "queue"])
def test_an_option_among_the_arguments_is_told_where_it_belongs(name: str) -> None:
    arguments: Any = {"a": 1, name: 3}

    with pytest.raises(pydantic.ValidationError) as raised:
        tasks.add.execute_on_commit(**arguments)

    [note] = raised.value.__notes__
    assert f"'{name}' is no parameter of tests.app.tasks.add" in note
    assert "using(" in note


def test_a_group_of_one_is_a_list_too() -> None:
    step: Any = tasks.add.step(a=1)

    with pytest.raises(TypeError, match=r"group\(\[step\]\)"):
        group(step)


@pytest.mark.parametrize(
    "node", [tasks.add.step(a=1), group([tasks.add.step(a=1)])], ids=["step", "group"]
)
@pytest.mark.parametrize("name", ["execute_on_commit", "aexecute_on_commit", "delay"])
def test_what_runs_in_a_workflow_names_its_call_form(node: Any, name: str) -> None:
    with pytest.raises(
        AttributeError,
        match=rf"(tasks\.add|a group of 1) has no '{name}'\. .*workflow\(.*execute_on_commit",
    ):
        getattr(node, name)()

    assert not hasattr(copy.copy(node), name)


@pytest.mark.parametrize(
    "thing", [tasks.add.using(delay=3), tasks.add.step(a=1)], ids=["task", "step"]
)
def test_other_names_are_missing_as_from_any_object(thing: Any) -> None:
    with pytest.raises(AttributeError, match=r"has no 'colour'\.$"):
        getattr(thing, "colour")  # noqa: B009


@pytest.mark.parametrize("call", [{"_queue": ["a"]}, {"_queue": 3}])
def test_a_queue_that_is_no_name_is_refused_at_the_call(call: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"There is no queue .* in LAMBDA_TASKS_QUEUES"):
        tasks.add.execute_on_commit(a=1, **call)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("call", "twin"),
    [
        (lambda captured: captured.run(), r"await captured\.arun\(\)"),
        (lambda captured: run_enqueued(), r"await arun_enqueued\(\)"),
        (lambda captured: assert_idempotent(tasks.add, a=1), "await aassert_idempotent"),
        (lambda captured: TaskRecord(id=uuid4()).cancel(), r"await record\.acancel\(\)"),
        (
            lambda captured: SQSLambdaTask.model_validate(tasks.add.serialize(a=1))
            .execute_on_commit(),
            r"await payload\.aexecute_on_commit\(\)",
        ),
    ],
)  # fmt: skip
def test_a_sync_form_in_an_event_loop_names_its_twin(
    captured_tasks: CapturedTasks, call: Callable[[CapturedTasks], object], twin: str
) -> None:
    async def in_a_loop() -> None:
        with pytest.raises(SynchronousOnlyOperation, match=twin):
            call(captured_tasks)

    asyncio.run(in_a_loop())


def test_a_decorator_may_stand_below(declare: Declare) -> None:
    module = declare("@lambda_task\n@traced\ndef f(*, a: int): return a + 1")

    assert module.f(a=1) == 2
    assert run_checks(tags=["lambda_tasks"]) == []


def test_the_decorator_itself_is_no_task() -> None:
    with pytest.raises(TypeError, match="no function"):
        lambda_task(3)  # type: ignore[call-overload]
