"""The words of other libraries, by which newcomers ask for what has another name here."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Final, ParamSpec, TypeVar

from .spelling import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")

_ENQUEUE: Final = (
    "Enqueue it by `execute_on_commit(...)`, or `await aexecute_on_commit(...)` in async code. "
    "Delays and queues are options of `using(...)`."
)
_STEP: Final = (
    "A step of a workflow is `step(...)`, with the task's arguments by name; several at once are "
    "`group(...)` of such steps."
)
_CONTEXT: Final = (
    "With `@lambda_task(takes_context=True)` the function gets it from `context: TaskContext`, "
    "its first parameter."
)

OF_TASKS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "aenqueue", "apply_async", "apply_async_on_commit", "defer", "defer_async", "delay",
            "delay_on_commit", "enqueue", "schedule", "send", "send_async",
        ),
        _ENQUEUE,
    ),
    **dict.fromkeys(("chunks", "map", "s", "si", "signature", "starmap", "subtask"), _STEP),
    "apply": "To run it here and now, call it like a function.",
    "AsyncResult": "The handle on a call whose id was kept is `lambda_tasks.Invocation(id)`.",
    "replace": "A step adds steps to its workflow by `lambda_tasks.workflows.add_steps(...)`.",
    "request": _CONTEXT,
    "retry": "Inside of the task, `raise lambda_tasks.Retry(delay=...)`.",
    "update_state": f"{_CONTEXT} It shows how far it is by `context.progress(...)`.",
}  # fmt: skip
"""What to use instead of an attribute that a task has elsewhere."""

_STATUS: Final = "The status is in its record: `invocation.record().status`."

OF_INVOCATIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("get", "join", "wait"),
        "Scripts and tests wait by `result(timeout=...)`, or `await aresult(timeout=...)`. A view "
        "answers with `id` and does not wait.",
    ),
    **dict.fromkeys(("failed", "ready", "state", "status", "successful"), _STATUS),
    **dict.fromkeys(("abort", "cancel", "revoke"), "Cancel it by `invocation.record().cancel()`."),
    "task_id": "Its id is `id`.",
}
"""What to use instead of an attribute that the result of a call has elsewhere."""

OF_STEPS: Final[Mapping[str, str]] = dict.fromkeys(
    ("aenqueue", "aexecute_on_commit", "apply_async", "delay", "enqueue", "execute_on_commit"),
    "It runs in a workflow: use workflow(name, last_step).execute_on_commit().",
)
"""What to use instead of an attribute that a task has, or a part of a workflow elsewhere."""

OF_OPTIONS: Final[Mapping[str, str]] = {
    "autoretry_for": "retry_on",
    "bind": "takes_context",
    "countdown": "delay",
    "default_retry_delay": "retry_delay",
    "eta": "run_after",
    "rate_limit": "rate",
    "soft_time_limit": "soft_timeout",
    "time_limit": "hard_timeout",
}
"""The options of tasks and of calls, by their names in Celery."""


_OF_CALLS: Final = frozenset({"delay", "expires", "headers", "priority", "queue", "run_after"})


def call_option(name: str) -> str | None:
    """Return the option of `using()` that a name means; None for any other name."""
    option = OF_OPTIONS.get(name, name)
    return option if option in _OF_CALLS else None


def missing(thing: str, name: str, words: Mapping[str, str]) -> str:
    """Return the error for an attribute that something does not have."""
    hint = words.get(name)
    return f"{thing} has no {name!r}.{'' if hint is None else ' ' + hint}"


def suggestion(option: str, known: Collection[str]) -> str:
    """Return a sentence, after a space, with the option that is meant, or else with all of them."""
    meant = OF_OPTIONS.get(option)
    if meant in known:
        return f" Did you mean {meant!r}?"
    return did_you_mean(option, known) or f" There are: {', '.join(known)}."


def telling_options(method: Callable[P, R]) -> Callable[P, R]:
    """Let a method of keyword-only options say which one is meant by one that it does not have."""
    kinds = inspect.signature(method).parameters.values()
    known = [each.name for each in kinds if each.kind is each.KEYWORD_ONLY]

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                hint = suggestion(name, known)
                raise TypeError(f"{method.__name__}() has no option {name!r}.{hint}")
        return method(*args, **kwargs)

    return call
