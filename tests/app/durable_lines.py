"""Durable functions that do what their lines say, and may be struck at any point."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from asgiref.sync import sync_to_async

from lambda_tasks import Retry, TaskFailed, lambda_task
from lambda_tasks.durable import SyncWorkflowContext, WorkflowContext
from tests.app.models import Effect
from tests.durable_model import RETRIES, Line, Refused, result_of

DAY: Final = timedelta(days=1)
TIMEOUT: Final = timedelta(days=3)

ran: Counter[str] = Counter()
"""How often each step has begun in this process."""

release: tuple[Line, ...] | None = None
"""The lines of a release that was deployed meanwhile, in place of those of the calls."""

strike: Callable[[str], None] = lambda point: None  # noqa: E731
"""What is called at each point of a function: between its lines, and in its steps."""


class Flaky(Exception):
    """A step fails, and the function is retried for it."""


def write(*, name: str, rows: int, value: int, failures: int, is_refused: bool) -> int:
    """Leave rows, and then perhaps an error."""
    ran[name] += 1
    strike(f"{name}, begun")
    for _ in range(rows):
        Effect.objects.create(name=name)
    strike(f"{name}, written")
    if ran[name] <= failures:
        raise Flaky(name)
    if is_refused:
        raise Refused(name)
    return result_of(name, value)


async def awrite(**given: Any) -> int:
    return await sync_to_async(write)(**given)


def undo(*, name: str) -> None:
    strike(f"{name}, undone")
    Effect.objects.create(name=f"undo {name}")


@lambda_task(max_retries=RETRIES)
def leave(*, name: str, rows: int, value: int, failures: int, is_refused: bool) -> int:
    """Be a task of its own, which a function runs and waits for."""
    try:
        return write(name=name, rows=rows, value=value, failures=failures, is_refused=is_refused)
    except Flaky as error:
        raise Retry(name, delay=0) from error


@lambda_task(workflow=True, retry_on=(Flaky,), max_retries=RETRIES)
async def aplay(workflow: WorkflowContext, *, lines: list[dict[str, Any]], fails: bool) -> int:
    value = 0
    for line in release or map(_line, lines):
        if line.only_if_odd and value % 2 == 0:
            continue
        strike(f"before {line.name}")
        try:
            value = result_of(value, *await _aplay_line(workflow, line, value))
        except (Refused, TaskFailed):
            if not line.is_caught:
                raise
            value = result_of(value, line.name, "refused")
        strike(f"after {line.name}")
        if line.is_undone:
            workflow.on_failure(f"undo {line.name}", undo, name=line.name)
    if fails:
        raise Refused("at the end")
    strike("at the end")
    return value


async def _aplay_line(workflow: WorkflowContext, line: Line, value: int) -> list[object]:
    name = line.name
    match line.kind:
        case "step":
            return [await workflow.step(name, awrite, **_given(line, value))]
        case "pair":
            given: dict[str, Any] = _given(line, value)
            steps = (
                workflow.step(each, awrite, **{**given, "name": each})
                for each in (f"{name}.a", f"{name}.b")
            )
            return [*await asyncio.gather(*steps)]
        case "run":
            return [await workflow.run(name, leave.step(**_given(line, value)))]
        case "gather":
            results = await workflow.gather(name, _members(line, value))
            return [*[each async for each in results], results.failed]
        case "sleep":
            await workflow.sleep(name, DAY)
            return [None]
        case "wait":
            return [await workflow.wait_for(name, int, timeout=TIMEOUT)]


@lambda_task(workflow=True, retry_on=(Flaky,), max_retries=RETRIES)
def play(workflow: SyncWorkflowContext, *, lines: list[dict[str, Any]], fails: bool) -> int:
    value = 0
    for line in release or map(_line, lines):
        if line.only_if_odd and value % 2 == 0:
            continue
        strike(f"before {line.name}")
        try:
            value = result_of(value, *_play_line(workflow, line, value))
        except (Refused, TaskFailed):
            if not line.is_caught:
                raise
            value = result_of(value, line.name, "refused")
        strike(f"after {line.name}")
        if line.is_undone:
            workflow.on_failure(f"undo {line.name}", undo, name=line.name)
    if fails:
        raise Refused("at the end")
    strike("at the end")
    return value


def _play_line(workflow: SyncWorkflowContext, line: Line, value: int) -> list[object]:
    name = line.name
    match line.kind:
        case "step":
            return [workflow.step(name, write, **_given(line, value))]
        case "pair":
            given: dict[str, Any] = _given(line, value)
            return [
                workflow.step(each, write, **{**given, "name": each})
                for each in (f"{name}.a", f"{name}.b")
            ]
        case "run":
            return [workflow.run(name, leave.step(**_given(line, value)))]
        case "gather":
            results = workflow.gather(name, _members(line, value))
            return [*results, results.failed]
        case "sleep":
            workflow.sleep(name, DAY)
            return [None]
        case "wait":
            return [workflow.wait_for(name, int, timeout=TIMEOUT)]


def _line(given: dict[str, Any]) -> Line:
    values: dict[str, Any] = given | {"members": tuple(given["members"])}
    return Line(**values)


def _given(line: Line, value: int) -> dict[str, Any]:
    return {
        "name": line.name,
        "rows": line.rows,
        "value": value,
        "failures": line.failures,
        "is_refused": line.is_refused,
    }


def _members(line: Line, value: int) -> list[Any]:
    return [
        leave.step(
            name=f"{line.name}.{number}",
            rows=1,
            value=value,
            failures=0,
            is_refused=not succeeds,
        )
        for number, succeeds in enumerate(line.members)
    ]
