"""The database backend of django-tasks, with two workers of one process each."""

from django.core.management import call_command
from django_tasks import task

from benchmarks.contestants import peer

COMMANDS = [["-m", "django", "db_worker", "--verbosity=0"]] * 2


@task
def mark() -> None:
    peer.mark()


def migrate() -> None:
    call_command("migrate", verbosity=0)


def work_off(*, kind: str, messages: int) -> dict[str, float]:
    for _ in range(messages):
        mark.enqueue()
    return peer.work_off(messages, COMMANDS)


def lone(*, kind: str, calls: int) -> float:
    return peer.lone(mark.enqueue, COMMANDS, calls)
