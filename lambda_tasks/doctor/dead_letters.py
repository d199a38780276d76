"""What the dead letters of a queue are of."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from .. import registry
from ..core.message import decode, invocation_id_of
from ..errors import MessageRefused, UnknownTask
from ..queues.dead_letters import DeadLetterMessage, DeadLetterQueue, Look
from .aws import Aws, learn
from .findings import Fact, Found, check

MAX_SEEN: Final = 100
"""The most dead letters of a queue that are looked at."""

HIDDEN_S: Final = 30
"""Seconds for which they are hidden from others at most. The end of a look releases them, if there
is time left."""


@dataclass(frozen=True, slots=True)
class DeadTasks:
    """The tasks of the dead letters of a queue, each with how many there are."""

    queue: str
    tasks: Fact[Mapping[str | None, int]]
    """None is the task of what can't be read."""

    def __str__(self) -> str:
        return f"queue {self.queue}"


async def count_tasks(aws: Aws, letters: DeadLetterQueue) -> Mapping[str | None, int]:
    """Look at some dead letters, and return how many there are of each task."""
    look = Look(MAX_SEEN)
    tasks: Counter[str | None] = Counter()
    held: dict[str, DeadLetterMessage] = {}
    try:
        while look.goes_on:
            receive = partial(letters.receive, look.most, HIDDEN_S)
            received = await aws.ask("sqs:receive_message", receive)
            held |= {each.id: each for each in received}
            tasks.update(map(_task_of, look.add(received)))
    finally:
        release = partial(letters.release, list(held.values()))
        await learn(aws.ask("sqs:change_message_visibility_batch", release))
    return tasks


@check(
    "dead_letters.unknown_tasks",
    "error",
    why="They died because no side that received them has the task: sent back, they die again.",
)
def unknown(dead: DeadTasks) -> Iterator[Found]:
    """Yield that dead letters are of tasks that this side does not have."""
    for name, number in dead.tasks.value.items():
        if name is None or not _is_known(name):
            what = "can't be read" if name is None else f"are of {name}, and there is no such task"
            yield Found(
                f"{number:,} of the first dead letters {what}.",
                "Dead letters of tasks that this release has.",
                "Deploy the release that has the task, or keep the old name in its aliases; then "
                f"manage.py lambda_tasks dlq redrive {dead.queue}",
            )


CHECKS: Final = (unknown,)


def _task_of(letter: DeadLetterMessage) -> str | None:
    try:
        return decode(letter.body, fallback_id=invocation_id_of(letter.id)).task_name
    except MessageRefused:
        return None


def _is_known(name: str) -> bool:
    """Return whether a task is loaded. Nothing is imported because a message names it."""
    try:
        registry.resolve(name, may_import=False)
    except UnknownTask:
        return False
    return True
