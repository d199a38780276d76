"""An iterable task of django-q2, which collects the results of its parts, beside single tasks."""

import time
from typing import Final

from django.core.management import call_command
from django_q.tasks import async_iter, async_task, result

from benchmarks.contestants import peer

COMMANDS: Final = [["-m", "django", "qcluster"]]
MARK: Final = "benchmarks.contestants.chord_django_q.mark"
LIMIT_S: Final = 60.0


def mark(number: int) -> int:
    peer.mark()
    return number


def migrate() -> None:
    call_command("migrate", verbosity=0)


def join(*, members: int, joined: bool) -> float:
    """Members a second of a cluster, from the first mark to the last one."""
    if not joined:
        for number in range(members):
            async_task(MARK, number)
        return peer.work_off(members, COMMANDS)["per_second"]
    id = async_iter(MARK, [(number,) for number in range(members)])
    figures = peer.work_off(members, COMMANDS)
    peer.start(COMMANDS)
    try:
        until = time.monotonic() + LIMIT_S
        while (numbers := result(id)) is None:
            assert time.monotonic() < until, "the results were never collected"
            time.sleep(0.1)
    finally:
        peer.stop()
    assert sorted(numbers) == list(range(members))
    return figures["per_second"]
