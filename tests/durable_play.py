"""Durable functions in processes that die, with a clock that the test moves."""

import random
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db.models import Q

from lambda_tasks import TaskFailed
from lambda_tasks.core.durable import FOREVER
from lambda_tasks.durable import DurableRun
from lambda_tasks.models import TaskRecord, Workflow
from lambda_tasks.records import checkpoints
from lambda_tasks.records.clock import Now, read_clock
from lambda_tasks.records.tables import StepCheckpoint, StepSignal
from tests.app import durable_lines as app
from tests.app.models import Effect
from tests.conftest import PATIENCE_S
from tests.crashing import Mortal
from tests.durable_model import Function, Outcome, result_of

ROUNDS = 400
"""More events than any of these functions needs."""

STATEMENTS = 60
"""Before one of so many statements, or points of a function, a process may die."""

OPEN = ("WAITING", "QUEUED", "RUNNING")


class Life:
    """The life of a durable function that was called, from process to process."""

    def __init__(
        self, call: Any, *, seed: int = 0, deadliness: float = 0.0, dies_at: int | None = None
    ) -> None:
        self.mortal = Mortal(dies_at)
        self.call = call
        self.run = DurableRun(call.id)
        self._order = random.Random(seed)
        self._deadliness = deadliness

    def play(self) -> None:
        """Let everything happen until nothing is left to happen."""
        for _ in range(ROUNDS):
            if not self.go_on():
                return
        left = TaskRecord.objects.filter(status__in=OPEN).values("kwargs", "status", "run_after")
        pytest.fail(f"it never ends: {list(left)}")

    def rest(self) -> None:
        """Deliver what is due, until all waits for a time or a signal."""
        for _ in range(ROUNDS):
            if not self.deliver():
                return
        pytest.fail("it never rests")

    def go_on(self) -> bool:
        """Let the next thing happen; False where nothing is left to happen."""
        return self.deliver() or self.pass_time()

    def deliver(self) -> bool:
        """Deliver a message that is due, perhaps twice; False where there is none."""
        due = list(_due().order_by("id").values_list("id", "task_name"))
        if not due:
            return False
        id, task_name = self._order.choice(due)
        if self._order.random() < self._deadliness:
            self.mortal.lives_for = self._order.randrange(STATEMENTS)
        if not self.mortal.deliver(id, task_name) and self._order.random() < 0.1:
            self.mortal.deliver(id, task_name)
        return True

    def pass_time(self) -> bool:
        """Let time pass until the next record is due; False where none will be."""
        waiting = TaskRecord.objects.filter(status="QUEUED", run_after__lt=FOREVER)
        following = waiting.order_by("run_after").first()
        if following is None:
            return False
        assert following.run_after is not None
        pass_time(following.run_after - read_clock("default") + timedelta(seconds=1))
        return True

    def status(self) -> str:
        """The status of the function's last run, without that of its compensations."""
        return str(checkpoints.runs_of(self.call.id).latest("enqueued_at").status)


class Playing(Life):
    """A function of the model that is called and lives, and what became of it."""

    def __init__(self, function: Function, *, is_async: bool = True, **options: Any) -> None:
        app.ran.clear()
        task: Any = app.aplay if is_async else app.play
        task = task.using(queue="table")
        lines, fails = function.as_json, function.fails
        super().__init__(task.execute_on_commit(lines=lines, fails=fails), **options)
        app.strike = self.mortal.reach
        self._late = {each.name for each in function.lines if each.signal in ("late", "sometime")}
        self._sometime = {each.name for each in function.lines if each.signal == "sometime"}
        for line in function.lines:
            if line.kind == "wait" and line.signal == "early":
                assert self.run.signal(line.name, result_of(line.name))

    def go_on(self) -> bool:
        """See Life. A signal that is late comes before time passes, and another at any time."""
        for name in sorted(self._sometime & self._late):
            if self._order.random() < 0.2:
                self._late.remove(name)
                with suppress(LookupError):  # A function that has ended, or went another way.
                    self.run.signal(name, result_of(name))
        return self.deliver() or self._signal() or self.pass_time()

    def rows(self) -> Counter[str]:
        """What the steps have left."""
        names = Effect.objects.values_list("name", flat=True)
        return Counter(name for name in names if not name.startswith("undo "))

    def undone(self) -> list[str]:
        """What was undone, in its order."""
        names = Effect.objects.order_by("pk").values_list("name", flat=True)
        return [name.removeprefix("undo ") for name in names if name.startswith("undo ")]

    def agrees_with(self, expected: Outcome) -> None:
        found = self.status(), self.rows(), self.undone()
        wanted = expected.status, expected.rows, expected.undone
        assert found == wanted, f"{found} is not {wanted}"
        if expected.status == "SUCCESS":
            assert self.call.result(timeout=PATIENCE_S) == expected.result
        else:
            with pytest.raises(TaskFailed):
                self.call.result(timeout=PATIENCE_S)
        assert not TaskRecord.objects.filter(status__in=OPEN).exists()

    def _signal(self) -> bool:
        """Send a signal that comes late; False where none is waited for."""
        for step in self.run.steps():
            if step.kind == "wait_for" and step.status == "waiting" and step.name in self._late:
                self._late.remove(step.name)
                with suppress(LookupError):  # It was cancelled.
                    return self.run.signal(step.name, result_of(step.name))
        return False


def pass_time(span: timedelta) -> None:
    """Let all that waits for a time have waited for so long already."""
    for record in TaskRecord.objects.filter(status="QUEUED", run_after__lt=FOREVER):
        assert record.run_after is not None
        earlier = record.run_after - span
        TaskRecord.objects.filter(id=record.id).update(run_after=earlier, look_at=earlier)
    for step in StepCheckpoint.objects.filter(kind__in=("sleep", "wait_for"), ended_at=None):
        due = datetime.fromisoformat(str(step.value))
        if due != FOREVER:
            StepCheckpoint.objects.filter(pk=step.pk).update(value=(due - span).isoformat())


def _due() -> Any:
    is_due = Q(run_after=None) | Q(run_after__lte=Now())
    is_lost = Q(status="RUNNING", lease_until__lte=Now())
    return TaskRecord.objects.filter(is_due & Q(status="QUEUED") | is_lost)


def forget() -> None:
    for model in (TaskRecord, Workflow, StepCheckpoint, StepSignal, Effect):
        model.objects.all().delete()
