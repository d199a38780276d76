"""What the dead letters of a queue are of."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .. import registry
from .findings import Fact, Found, check


@dataclass(frozen=True, slots=True)
class DeadTasks:
    """The tasks of the dead letters of a queue, each with how many there are."""

    queue: str
    tasks: Fact[Mapping[str | None, int]]
    """None is the task of what can't be read."""

    def __str__(self) -> str:
        return f"queue {self.queue}"


@check(
    "dead_letters.unknown_tasks",
    "error",
    why="They died because no side that received them has the task: sent back, they die again.",
)
def unknown(dead: DeadTasks) -> Iterator[Found]:
    """Yield that dead letters are of tasks that this side does not have."""
    for name, number in dead.tasks.value.items():
        if name is None or registry.find_task(name) is None:
            what = "can't be read" if name is None else f"are of {name}, and there is no such task"
            yield Found(
                f"{number:,} of the first dead letters {what}.",
                "Dead letters of tasks that this release has.",
                "Deploy the release that has the task, or keep the old name in its aliases; then "
                f"manage.py lambda_tasks dlq redrive {dead.queue}",
            )


CHECKS: Final = (unknown,)
