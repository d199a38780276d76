"""The check of a function at its decoration: whether it can be a task."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from .hints import annotations_of, parameters_of

CONTEXT_PARAMETER = "context"

WORKFLOW_PARAMETER = "workflow"


def check_function(
    func: Callable[..., Any], *, takes_context: bool, is_durable: bool = False
) -> None:
    """Raise TypeError, naming function and parameter, unless `func` can be a task.

    With `is_durable` it is a durable function, whose first parameter is `workflow`.
    """
    _check_kind(func)
    name = func.__qualname__
    parameters, annotations = parameters_of(func), annotations_of(func)
    if is_durable:
        _check_workflow(func, parameters, annotations)
    if takes_context:
        _check_context(name, parameters)
    for parameter in parameters.values():
        if is_durable and parameter.name == WORKFLOW_PARAMETER:
            continue
        _refuse_workflow(name, parameter.name, annotations.get(parameter.name))
        is_context = takes_context and parameter.name == CONTEXT_PARAMETER
        if not is_context:
            _refuse_context(name, parameter, annotations.get(parameter.name))
        _check_parameter(name, parameter, annotations, may_be_positional=is_context)


def takes_context_by_position(func: Callable[..., Any]) -> bool:
    """Return whether a function's parameter `context` is positional, as in Django's own tasks."""
    parameter = parameters_of(func).get(CONTEXT_PARAMETER)
    return parameter is not None and parameter.kind is not inspect.Parameter.KEYWORD_ONLY


def _check_kind(func: Any) -> None:
    """Raise TypeError unless this is a function of a module, which a worker can find and call."""
    if isinstance(func, functools.partial):
        raise TypeError(
            f"{func!r} can't be a task: a partial has no name by which a worker could import it. "
            "Write a function that passes these arguments."
        )
    if inspect.isclass(func) or not callable(func) or not _has_names(func):
        raise TypeError(
            f"{func!r} can't be a task, as it is no function. Write @lambda_task above a `def` or "
            "an `async def`, next to it."
        )
    name = func.__qualname__
    if name == "<lambda>" or name.endswith(".<lambda>"):
        raise TypeError(
            f"A lambda in {func.__module__} can't be a task: it has no name by which a worker "
            "could import it. Write it as a `def` at the top level of a module."
        )
    if "." in name:
        raise TypeError(
            f"{name} can't be a task: a worker imports a task by its dotted name. Move it to the "
            "top level of a module, out of its function or class. If a decorator has made it, let "
            "that use functools.wraps()."
        )
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError(
            f"{name} can't be a task: it is a generator, which runs only while somebody iterates "
            "over it. Remove `yield`; return a list, or show progress with `context.progress()`."
        )


def _check_context(function: str, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Raise TypeError unless a function whose option says so has a parameter for the context."""
    if CONTEXT_PARAMETER in parameters:
        return
    first = next(iter(parameters.values()), None)
    has_other = first is not None and first.kind is first.POSITIONAL_OR_KEYWORD
    raise TypeError(
        f"{function} has takes_context=True but no parameter 'context'. "
        + (f"Rename {first.name!r}: " if first is not None and has_other else "Add it: ")
        + "its first parameter is `context: TaskContext`."
    )


def _has_names(func: Any) -> bool:
    return hasattr(func, "__qualname__") and not inspect.isbuiltin(func)


def _refuse_context(function: str, parameter: inspect.Parameter, annotation: object) -> None:
    """Raise TypeError for a parameter that is meant for the run's context, and would get none."""
    if _is_task_context(annotation):
        raise TypeError(
            f"{function} has the parameter {parameter.name!r} and not the option for it. Write "
            "`@lambda_task(takes_context=True)`, and `context: TaskContext` as the first parameter."
        )
    if parameter.name == CONTEXT_PARAMETER and parameter.kind is not parameter.KEYWORD_ONLY:
        raise TypeError(
            f"{function} has the positional parameter 'context'. For the context of a run, write "
            "`@lambda_task(takes_context=True)` and `context: TaskContext`; for an argument, put a "
            "`*` before it."
        )


def _check_parameter(
    name: str,
    parameter: inspect.Parameter,
    annotations: Mapping[str, Any],
    *,
    may_be_positional: bool,
) -> None:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        raise TypeError(
            f"{name} takes **{parameter.name}. Declare each parameter, so that a call can be "
            "checked."
        )
    if parameter.kind is not inspect.Parameter.KEYWORD_ONLY and not may_be_positional:
        raise TypeError(
            f"{name} has the positional parameter {parameter.name!r}. Put a `*` before it: "
            "a task's parameters are keyword-only."
        )
    if parameter.name.startswith("_"):
        raise TypeError(
            f"{name} has the parameter {parameter.name!r}. Rename it: names that start with '_' "
            "are reserved for options of the call, like _delay."
        )
    if parameter.name not in annotations:
        raise TypeError(
            f"{name} has the parameter {parameter.name!r} without an annotation. Annotate its type."
        )


def _check_workflow(
    func: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter],
    annotations: Mapping[str, Any],
) -> None:
    """Raise TypeError unless the first parameter is the context that fits the function."""
    is_async = inspect.iscoroutinefunction(func)
    right = "WorkflowContext" if is_async else "SyncWorkflowContext"
    first = next(iter(parameters.values()), None)
    is_positional = first is not None and first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    hint = _context_class(annotations.get(WORKFLOW_PARAMETER))
    if first is None or first.name != WORKFLOW_PARAMETER or not is_positional or hint != right:
        raise TypeError(
            f"{func.__qualname__} has workflow=True, so its first parameter is "
            f"`workflow: {right}`, before the `*`."
        )


def _refuse_workflow(function: str, name: str, annotation: object) -> None:
    if _context_class(annotation) is not None:
        raise TypeError(
            f"{function} has the parameter {name!r} and not the option for it. Write "
            "`@lambda_task(workflow=True)`, and `workflow` as the first parameter."
        )


def _context_class(annotation: object) -> str | None:
    # By its name, as in _is_task_context().
    found = re.search(r"\b(?:Sync)?WorkflowContext\b", str(annotation))
    return None if found is None else found[0]


def _is_task_context(hint: object) -> bool:
    # By its name: an annotation may be a string, and this room does not import the class.
    return re.search(r"\bTaskContext\b", str(hint)) is not None
