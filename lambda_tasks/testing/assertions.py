"""The assertions about tasks."""

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.db.models import Model

from ..core.arguments import refuse_positional
from ..decorators import LambdaTaskWrapper
from ..twins import sync_form
from .capturing import CapturedTasks, capture_tasks, innermost_capture
from .events import CapturedTask

NamedArguments = Mapping[str, Any]
Row = dict[str, Any]
Tables = dict[str, dict[Any, Row]]


def assert_enqueued(task: Any, /, *args: Any, **kwargs: Any) -> CapturedTask:
    """Assert that a call with these arguments was enqueued; return the first such call.

    Arguments that are not given may have any value. `task` is a @lambda_task or a task of
    django.tasks. Only the latter has positional arguments, which match named ones and vice versa.

    Raises AssertionError, with the calls that come close, where there is no such call; TypeError
    for an argument that the task does not have; RuntimeError outside of capture_tasks().
    """
    captured = innermost_capture()
    name = _name_of(task)
    wanted = _encode_named(task, args, kwargs)
    for call in captured:
        if call.task_name == name and not _differing_parameters(task, call, wanted):
            return call
    raise AssertionError(_near_misses(task, captured, args, kwargs, wanted))


@sync_form("aassert_idempotent(...)")
def assert_idempotent(
    task: Any, /, *args: Any, _ignore: Collection[str] = (), **kwargs: Any
) -> None:
    """Assert that a second run of a task leaves the database as the first run did.

    Tasks need this that have effects outside of their transaction (`atomic=False`), or that are
    enqueued twice. `_ignore` names fields that may differ, as "app.Model.field".

    Raises AssertionError with up to 20 differences, and TaskFailed where a run fails.
    """
    _enqueue_and_run(task, args, kwargs)
    once = _read_tables(_ignore)
    _enqueue_and_run(task, args, kwargs)
    differences = list(_differences(once, _read_tables(_ignore)))
    if differences:
        lines = "\n".join(f"  {each}" for each in differences[:20])
        raise AssertionError(f"{_name_of(task)} is not idempotent. A second run has\n{lines}")


async def aassert_idempotent(
    task: Any, /, *args: Any, _ignore: Collection[str] = (), **kwargs: Any
) -> None:
    """See assert_idempotent()."""
    await sync_to_async(assert_idempotent)(task, *args, _ignore=_ignore, **kwargs)


def _enqueue_and_run(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with capture_tasks() as captured:
        if isinstance(task, LambdaTaskWrapper):
            task.execute_on_commit(*args, **kwargs)
        else:
            task.enqueue(*args, **kwargs)
        captured.run()


def _name_of(task: Any) -> str:
    name = task.name if isinstance(task, LambdaTaskWrapper) else getattr(task, "module_path", None)
    if not isinstance(name, str):
        raise TypeError(f"{task!r} is no task. Pass a function with @lambda_task or @task.")
    return name


def _encode_named(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NamedArguments:
    """Return arguments as JSON values, by the names of their parameters.

    Raises TypeError for an argument that the task does not have.
    """
    wrapper = _wrapper_of(task)
    if wrapper is not None:
        refuse_positional(wrapper.name, args)
        return wrapper.arguments.some_to_json(kwargs)
    from ..backends.compat import normalize_json

    return _by_name(task, normalize_json(list(args)), normalize_json(dict(kwargs)))


def _by_name(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NamedArguments:
    signature = inspect.signature(task.func)
    if task.takes_context:
        parameters = list(signature.parameters.values())[1:]
        signature = signature.replace(parameters=parameters)
    return signature.bind_partial(*args, **kwargs).arguments


def _wrapper_of(task: Any) -> LambdaTaskWrapper[..., Any] | None:
    """Return the @lambda_task that a task is or stands for; None for a function with @task."""
    return task if isinstance(task, LambdaTaskWrapper) else getattr(task, "wrapper", None)


def _differing_parameters(task: Any, call: CapturedTask, wanted: NamedArguments) -> list[str]:
    """Return the parameters for which a call has another value than wanted, or none."""
    given = call.kwargs if _wrapper_of(task) else _by_name(task, call.args, call.kwargs)
    missing = object()
    return [name for name, value in wanted.items() if given.get(name, missing) != value]


def _near_misses(
    task: Any,
    captured: CapturedTasks,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wanted: NamedArguments,
) -> str:
    name = _name_of(task)
    shown = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    head = f"{name}({', '.join(shown)}) was not enqueued."
    same = [call for call in captured if call.task_name == name]
    if same:
        calls = "\n".join(
            f"  {call!r}, which differs in {', '.join(_differing_parameters(task, call, wanted))}"
            for call in same[:10]
        )
        return f"{head} The calls of this task are:\n{calls}"
    others = sorted({call.task_name for call in captured})
    if not others:
        return f"{head} Nothing was."
    near = difflib.get_close_matches(name, others, n=3, cutoff=0.4) or others[:10]
    return f"{head} There are no calls of this task, but of {', '.join(near)}."


def _read_tables(ignore: Collection[str]) -> Tables:
    models = [model for model in apps.get_models() if model._meta.app_label != "lambda_tasks"]
    return {
        model._meta.label: {_primary_key(model, row): row for row in _read_rows(model, ignore)}
        for model in models
        if model._meta.managed and not model._meta.proxy
    }


def _read_rows(model: type[Model], ignore: Collection[str]) -> Iterator[Row]:
    label = model._meta.label
    try:
        rows = list(model._base_manager.values())
    except AssertionError:
        return  # A TestCase forbids queries to databases that it does not list in `databases`.
    for row in rows:
        yield {name: value for name, value in row.items() if f"{label}.{name}" not in ignore}


def _primary_key(model: type[Model], row: Row) -> tuple[Any, ...]:
    return tuple(row[field.attname] for field in model._meta.pk_fields)


def _differences(once: Tables, twice: Tables) -> Iterator[str]:
    for label, after in twice.items():
        before = once[label]
        for key in before.keys() - after.keys():
            yield f"no {label} {key!r} any more"
        for key, row in after.items():
            if key not in before:
                yield f"another {label} {key!r}: {row}"
            elif row != before[key]:
                changed = [name for name in row if row[name] != before[key].get(name)]
                yield f"in {label} {key!r} another {', '.join(changed)}"
