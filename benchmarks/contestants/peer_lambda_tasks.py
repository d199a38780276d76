"""This library's worker on a table queue, as its peers are measured."""

from typing import Any

from benchmarks.contestants import peer
from benchmarks.contestants.database import migrate
from benchmarks.contestants.work import marks

__all__ = ["lone", "migrate", "work_off"]

TASKS: dict[str, Any] = {"sync": marks.mark, "async": marks.amark}
COMMANDS = [["-m", "django", "lambda_tasks", "worker", "--queue", "table", "--processes", "2"]]


def work_off(*, kind: str, messages: int) -> dict[str, float]:
    TASKS[kind].using(queue="table").execute_many_on_commit([{}] * messages)
    return peer.work_off(messages, COMMANDS)


def lone(*, kind: str, calls: int) -> float:
    return peer.lone(TASKS[kind].using(queue="table").execute_on_commit, COMMANDS, calls)
