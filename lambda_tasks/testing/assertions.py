"""What a test may claim of tasks."""

import difflib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.apps import apps
from django.db.models import Model

from ..core.arguments import refuse_positional
from ..decorators import LambdaTaskWrapper
from .capturing import CapturedTasks, capture_tasks, captured_now
from .events import CapturedTask

Named = Mapping[str, Any]
Row = dict[str, Any]
Tables = dict[str, dict[Any, Row]]


def assert_enqueued(task: Any, /, *args: Any, **kwargs: Any) -> CapturedTask:
    """That a call with these arguments was enqueued; returns the first such call.

    Arguments that are not named may be anything. `task` is a @lambda_task or a task of
    django.tasks; `args` are for the latter, where it does not matter which of the two ways an
    argument is passed. The error shows calls that come near.
    Raises TypeError for arguments that the task does not take.
    """
    captured = captured_now()
    name = _name_of(task)
    wanted = _as_json(task, args, kwargs)
    for call in captured:
        if call.task_name == name and not _differing(task, call, wanted):
            return call
    raise AssertionError(_near_misses(task, captured, args, kwargs, wanted))


def assert_idempotent(
    task: Any, /, *args: Any, _ignore: Collection[str] = (), **kwargs: Any
) -> None:
    """That running a task twice leaves in the database what running it once leaves.

    That is what a task needs that has effects outside of its transaction (`atomic=False`), or is
    enqueued twice. `_ignore` names fields that may differ: "app.Model.field".
    """
    _enqueue_and_run(task, args, kwargs)
    once = _tables(_ignore)
    _enqueue_and_run(task, args, kwargs)
    differences = list(_differences(once, _tables(_ignore)))
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
        raise TypeError(f"{task!r} is no task. Pass what @lambda_task or @task has made.")
    return name


def _as_json(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Named:
    """Some arguments by the names of their parameters, as they travel.

    Raises TypeError for arguments that the task does not take.
    """
    wrapper = _wrapper_of(task)
    if wrapper is not None:
        refuse_positional(wrapper.name, args)
        return wrapper.arguments.some_to_json(kwargs)
    from ..backends.compat import normalize_json

    return _by_name(task, normalize_json(list(args)), normalize_json(dict(kwargs)))


def _by_name(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Named:
    signature = inspect.signature(task.func)
    if task.takes_context:
        parameters = list(signature.parameters.values())[1:]
        signature = signature.replace(parameters=parameters)
    return signature.bind_partial(*args, **kwargs).arguments


def _wrapper_of(task: Any) -> LambdaTaskWrapper[..., Any] | None:
    """Also of a task of django.tasks that stands for a @lambda_task."""
    return task if isinstance(task, LambdaTaskWrapper) else getattr(task, "wrapper", None)


def _differing(task: Any, call: CapturedTask, wanted: Named) -> list[str]:
    """The parameters for which a call was given something else, or nothing."""
    given = call.kwargs if _wrapper_of(task) else _by_name(task, call.args, call.kwargs)
    missing = object()
    return [name for name, value in wanted.items() if given.get(name, missing) != value]


def _near_misses(
    task: Any,
    captured: CapturedTasks,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    wanted: Named,
) -> str:
    name = _name_of(task)
    shown = [*map(repr, args), *(f"{key}={value!r}" for key, value in kwargs.items())]
    head = f"{name}({', '.join(shown)}) was not enqueued."
    same = [call for call in captured if call.task_name == name]
    if same:
        calls = "\n".join(
            f"  {call!r}, which differs in {', '.join(_differing(task, call, wanted))}"
            for call in same[:10]
        )
        return f"{head} Of this task there are\n{calls}"
    others = sorted({call.task_name for call in captured})
    if not others:
        return f"{head} Nothing was."
    near = difflib.get_close_matches(name, others, n=3, cutoff=0.4) or others[:10]
    return f"{head} Of this task there is none, but of {', '.join(near)}."


def _tables(ignore: Collection[str]) -> Tables:
    models = [model for model in apps.get_models() if model._meta.app_label != "lambda_tasks"]
    return {
        model._meta.label: {_key(model, row): row for row in _rows(model, ignore)}
        for model in models
        if model._meta.managed and not model._meta.proxy
    }


def _rows(model: type[Model], ignore: Collection[str]) -> Iterator[Row]:
    label = model._meta.label
    try:
        rows = list(model._base_manager.values())
    except AssertionError:
        return  # of a database that a TestCase does not name in its `databases`
    for row in rows:
        yield {name: value for name, value in row.items() if f"{label}.{name}" not in ignore}


def _key(model: type[Model], row: Row) -> tuple[Any, ...]:
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
