"""Durable functions end as if nothing had disturbed them, whatever crashes, and when.

`tests/durable_model.py` says how a function ends that nothing disturbs.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from django.db.models import Q
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lambda_tasks import durable
from lambda_tasks.durable import DurableRun
from lambda_tasks.models import TaskRecord
from tests.app import durable as app
from tests.app.models import Effect
from tests.crashing import Mortal
from tests.durable_model import Function, Line, functions, play, result_of

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = int(os.environ.get("LAMBDA_TASKS_TEST_DURABLE", "8"))
"""A longer run: LAMBDA_TASKS_TEST_DURABLE=2000."""

examples = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

ROUNDS = 400
"""More events than any of these functions needs."""

STATEMENTS = 60
"""Before one of so many statements, or points of a function, a process may die."""

OPEN = ("WAITING", "QUEUED", "RUNNING")


class Playing:
    """A function that runs on the handler, in processes that die, and what became of it."""

    def __init__(
        self, function: Function, *, is_async: bool = True, seed: int = 0, deadliness: float = 0.0
    ) -> None:
        app.ran.clear()
        self.mortal = Mortal()
        app.strike = self.mortal.reach
        self._order = random.Random(seed)
        self._deadliness = deadliness
        self._late = {each.name for each in function.lines if each.signal == "late"}
        task: Any = app.aplay if is_async else app.play
        task = task.using(queue="table")
        self.call = task.execute_on_commit(lines=function.as_json, fails=function.fails)
        self.id = self.call.id
        self.run = DurableRun(self.id)
        for line in function.lines:
            if line.kind == "wait" and line.signal == "early":
                assert durable.signal(self.id, line.name, result_of(line.name))

    @property
    def runs(self) -> Any:
        """The records of the function's runs, and of its compensations."""
        return TaskRecord.objects.filter(Q(id=self.id) | Q(root_id=self.id))

    def play(self) -> None:
        """Deliver what is due, let signals come and time pass, until nothing is left to do."""
        for _ in range(ROUNDS):
            if not self.go_on():
                return
        left = TaskRecord.objects.filter(status__in=OPEN).values("kwargs", "status", "run_after")
        pytest.fail(f"it never ends: {list(left)}")

    def go_on(self) -> bool:
        """Let the next thing happen; False where nothing is left to happen."""
        return self.deliver() or self._signal() or self._pass_time()

    def deliver(self, *, dies_at: int | None = None) -> bool:
        """Deliver a message that is due, perhaps twice; False where there is none."""
        due = list(_due().order_by("id").values_list("id", "task_name"))
        if not due:
            return False
        id, task_name = self._order.choice(due)
        if dies_at is None and self._order.random() < self._deadliness:
            dies_at = self._order.randrange(STATEMENTS)
        if not self.mortal.deliver(id, task_name, dies_at=dies_at):
            if self._order.random() < 0.1:
                self.mortal.deliver(id, task_name)
        return True

    def _signal(self) -> bool:
        """Send a signal that comes late; False where none is waited for."""
        for step in self.run.steps():
            if step.kind == "wait_for" and step.status == "waiting" and step.name in self._late:
                self._late.remove(step.name)
                return durable.signal(self.id, step.name, result_of(step.name))
        return False

    def _pass_time(self) -> bool:
        """Let time pass until the next record is due; False where none will be."""
        waiting = TaskRecord.objects.filter(status="QUEUED", run_after__lt=app.NEVER)
        following = waiting.order_by("run_after").first()
        if following is None:
            return False
        assert following.run_after is not None
        pass_time(following.run_after - read_clock("default") + timedelta(seconds=1))
        return True

    def rows(self) -> Counter[str]:
        """What the steps have left."""
        names = Effect.objects.values_list("name", flat=True)
        return Counter(name for name in names if not name.startswith("undo "))

    def undone(self) -> list[str]:
        """What was undone, in its order."""
        names = Effect.objects.order_by("pk").values_list("name", flat=True)
        return [name.removeprefix("undo ") for name in names if name.startswith("undo ")]

    def agrees_with(self, expected: Outcome) -> None:
        assert self.rows() == expected.rows
        assert self.undone() == expected.undone
        assert self.status() == expected.status
        if expected.status == "SUCCESS":
            assert self.call.result(timeout=PATIENCE_S) == expected.result
        else:
            with pytest.raises(TaskFailed):
                self.call.result(timeout=PATIENCE_S)
        assert not TaskRecord.objects.filter(status__in=OPEN).exists()

    def status(self) -> str:
        """The status of the function's last run, without that of its compensations."""
        return str(checkpoints.runs_of(self.id).latest("enqueued_at").status)


def pass_time(span: timedelta) -> None:
    """Let all that waits for a time have waited for so long already."""
    for record in TaskRecord.objects.filter(status="QUEUED", run_after__lt=app.NEVER):
        assert record.run_after is not None
        earlier = record.run_after - span
        TaskRecord.objects.filter(id=record.id).update(run_after=earlier, look_at=earlier)
    for step in StepCheckpoint.objects.filter(kind="sleep"):
        due = datetime.fromisoformat(step.value) - span
        StepCheckpoint.objects.filter(pk=step.pk).update(value=due.isoformat())


def _due() -> Any:
    is_due = Q(run_after=None) | Q(run_after__lte=Now())
    return TaskRecord.objects.filter(is_due, status="QUEUED")


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
    _forget()
    playing = Playing(function, is_async=is_async, seed=seed, deadliness=0.5)

    playing.play()

    playing.agrees_with(play(function))


@examples
@given(functions(), st.integers(0, 2**32), st.booleans(), st.integers(0, 12))
def test_a_function_that_is_cancelled_undoes_what_was_done_and_does_nothing_else(
    function: Function, seed: int, is_async: bool, n_events: int
) -> None:
    _forget()
    playing = Playing(function, is_async=is_async, seed=seed, deadliness=0.5)
    for _ in range(n_events):
        if not playing.go_on():
            break
    done = playing.rows()

    was_cancelled = playing.run.cancel()
    playing.play()

    assert playing.rows() == done
    expected = play(function)
    if was_cancelled:
        assert playing.status() == "CANCELLED"
        assert playing.undone() == [name for name in _undoable(function)[::-1] if done[name]]
    else:
        playing.agrees_with(expected)
