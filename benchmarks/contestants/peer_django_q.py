"""django-q2 with Django's ORM as its broker, and two processes."""

from django.core.management import call_command
from django_q.tasks import async_task

from benchmarks.contestants import peer

COMMANDS = [["-m", "django", "qcluster"]]
MARK = "benchmarks.contestants.peer.mark"


def migrate() -> None:
    call_command("migrate", verbosity=0)


def work_off(*, kind: str, messages: int) -> dict[str, float]:
    for _ in range(messages):
        async_task(MARK)
    return peer.work_off(messages, COMMANDS)


def lone(*, kind: str, calls: int) -> float:
    return peer.lone(lambda: async_task(MARK), COMMANDS, calls)
