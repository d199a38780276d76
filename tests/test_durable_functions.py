"""Durable functions end as if nothing had disturbed them, whatever crashes, and when.

`tests/durable_model.py` says how a function ends that nothing disturbs.
"""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from typing import Final

import pytest
from django.db import connection, connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_tasks.models import TaskRecord
from tests.app import durable_lines as app
from tests.conftest import PATIENCE_S
from tests.durable_model import Function, Line, functions, play
from tests.durable_play import OPEN, Playing, forget

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = int(os.environ.get("LAMBDA_TASKS_TEST_DURABLE", "8"))
"""A longer run: LAMBDA_TASKS_TEST_DURABLE=2000."""

STRIDE = 8 if EXAMPLES < 100 else 1
"""One of so many statements is the last one of a process, from another first one in each run."""

examples = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    yield
    app.strike = lambda point: None
    app.release = None


@examples
@given(functions(), st.integers(0, 2**32), st.booleans())
def test_a_function_ends_as_if_nothing_had_crashed(
    function: Function, seed: int, is_async: bool
) -> None:
    forget()
    playing = Playing(function, is_async=is_async, seed=seed, deadliness=0.5)

    playing.play()

    playing.agrees_with(play(function))


@examples
@given(functions(), st.integers(0, 2**32), st.booleans(), st.integers(0, 12))
def test_a_function_that_is_cancelled_undoes_what_was_done_and_does_nothing_else(
    function: Function, seed: int, is_async: bool, n_events: int
) -> None:
    forget()
    playing = Playing(function, is_async=is_async, seed=seed, deadliness=0.5)
    for _ in range(n_events):
        if not playing.go_on():
            break
    done = playing.rows()

    was_cancelled = playing.run.cancel()
    steps = {step.name: step.status for step in playing.run.steps()}
    playing.play()

    if not was_cancelled:
        playing.agrees_with(play(function))
        return
    undone = playing.undone()
    assert playing.status() == "CANCELLED"
    assert playing.rows() == done
    assert not TaskRecord.objects.filter(status__in=OPEN).exists()
    undoable = [line.name for line in function.lines[::-1] if line.is_undone]
    assert undone == [name for name in undoable if name in undone]
    for line in function.lines:
        if line.is_undone and all(steps.get(name) == "done" for name in _steps_of(line)):
            assert line.name in undone


def _steps_of(line: Line) -> list[str]:
    return [f"{line.name}.a", f"{line.name}.b"] if line.kind == "pair" else [line.name]


CANCELLED: Final = Function(
    (Line("a", is_undone=True), Line("b", "sleep"), Line("c", is_undone=True), Line("d", "pair"))
)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_cancel_while_a_run_does_anything_ends_the_function_there(is_async: bool) -> None:
    """From another connection, as from another process."""
    for at in count():
        forget()
        playing = Playing(CANCELLED, is_async=is_async)
        points = count()

        def strike(
            point: str, at: int = at, playing: Playing = playing, points: Iterator[int] = points
        ) -> None:
            if next(points) == at and not _holds_up_all(point):
                assert _in_a_thread(playing.run.cancel)

        app.strike = strike
        playing.play()

        if playing.status() == "SUCCESS" and next(points) <= at:
            break
        if playing.status() == "SUCCESS":
            continue
        done = {step.name for step in playing.run.steps() if step.status == "done"}
        assert playing.status() == "CANCELLED"
        assert playing.rows() == dict.fromkeys(done & {"a", "c", "d.a", "d.b"}, 1)
        assert playing.undone() == [name for name in ("c", "a") if name in done]
        assert not TaskRecord.objects.filter(status__in=OPEN).exists()
    assert at > 15


def _holds_up_all(point: str) -> bool:
    """Return whether whoever cancels would wait for the run: for SQLite's lock, or for its loop."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop().is_running()
    return connection.vendor == "sqlite" and point.endswith("written")


def _in_a_thread(function: Callable[[], bool]) -> bool:
    def run() -> bool:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(run).result(timeout=PATIENCE_S)


# At each statement

WAYS: dict[str, Function] = {
    "step": Function((Line("a", rows=2, is_undone=True), Line("b", failures=1))),
    "pair": Function((Line("a", "pair"), Line("b"))),
    "sleep": Function((Line("a"), Line("b", "sleep"), Line("c"))),
    "signal": Function((Line("a", "wait", signal="late"), Line("b"))),
    "timeout": Function((Line("a", "wait", signal="never"), Line("b"))),
    "run": Function((Line("a", "run", failures=1), Line("b"))),
    "gather": Function((Line("a", "gather", members=(True, False, True)), Line("b"))),
    "error that is caught": Function((Line("a", is_refused=True), Line("b", "sleep"), Line("c"))),
    "compensation": Function(
        (Line("a", is_undone=True), Line("b", "sleep", is_undone=True), Line("c")), fails=True
    ),
}
"""Short functions, by what happens in them."""


@pytest.mark.parametrize("name", WAYS)
def test_a_crash_before_a_statement_changes_nothing(name: str) -> None:
    function = WAYS[name]
    for dies_at in count(random.randrange(STRIDE), STRIDE):
        forget()
        playing = Playing(function, dies_at=dies_at)

        playing.play()

        playing.agrees_with(play(function))
        if not playing.mortal.deaths:
            break
    assert dies_at > 10
