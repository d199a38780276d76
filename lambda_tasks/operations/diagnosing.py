"""What is wrong with the deployment, and the changes that put right what is safe."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from asgiref.sync import async_to_sync

from .. import conf, runtime
from ..core.spelling import did_you_mean
from ..doctor import examination, fixing
from ..doctor.aws import learn
from ..doctor.dead_letters import DeadTasks
from ..doctor.findings import Finding
from ..doctor.round_trips import TASK, RoundTrip
from ..errors import InvalidFilter
from ..queues.sqs import SQSQueue
from ..twins import sync_form
from .checking import check_time
from .dead_letters import apeek_dead_letters
from .steering import aenqueue

LIMIT: Final = timedelta(minutes=1)
"""How long an examination may take, unless a caller says otherwise."""


@dataclass(frozen=True, slots=True)
class Fixes:
    """The changes that were made, or in a dry run would be, as commands of AWS's command line."""

    done: tuple[str, ...]
    failed: dict[str, str]
    """The reasons of those that failed, by their commands."""


@sync_form("adoctor(...)")
def doctor(
    *,
    inside: bool = False,
    round_trip: bool = False,
    dead_letters: bool = False,
    ignore: Iterable[str] = (),
    within: timedelta = LIMIT,
) -> list[Finding]:
    """Return what is wrong with the deployment, and what could not be checked, the worst first.

    Reads settings, database, and from AWS queues, event source mappings, functions, logs and
    schedules. With `inside`, each function is invoked to examine itself, too. With `round_trip`, a
    call is enqueued to each queue, except those of AWS Batch, and has to run. With
    `dead_letters`, some of each queue are received, and stay there. `ignore` has ids of checks to
    leave out; "queue" leaves out all that begin with "queue.". After `within`, what was
    not read is not checked. Raises ImproperlyConfigured for settings that are invalid, and
    InvalidFilter for an id that no check has.
    """
    return async_to_sync(adoctor)(
        inside=inside,
        round_trip=round_trip,
        dead_letters=dead_letters,
        ignore=ignore,
        within=within,
    )


async def adoctor(
    *,
    inside: bool = False,
    round_trip: bool = False,
    dead_letters: bool = False,
    ignore: Iterable[str] = (),
    within: timedelta = LIMIT,
) -> list[Finding]:
    """See doctor()."""
    check_time("within", within)
    ignored = [ignore] if isinstance(ignore, str) else list(ignore)
    _check_ids(ignored)
    limit_s = within.total_seconds()
    trips = await _round_trips(limit_s) if round_trip else []
    dead = await _dead_tasks() if dead_letters else []
    found = await examination.examine(
        runtime.current(), inside=inside, trips=trips, dead=dead, limit_s=limit_s
    )
    return [each for each in found if not any(_is_named(each.id, name) for name in ignored)]


@sync_form("afix(...)")
def fix(findings: Iterable[Finding], *, dry_run: bool = False) -> Fixes:
    """Put right what is safe: change values in AWS, and delete, stop or start nothing.

    Findings whose `change` is None are left out. What was changed already is changed to the same.
    """
    return async_to_sync(afix)(findings, dry_run=dry_run)


async def afix(findings: Iterable[Finding], *, dry_run: bool = False) -> Fixes:
    """See fix()."""
    changes = fixing.changes_of(findings)
    failed = {} if dry_run else await fixing.make(runtime.current(), changes)
    return Fixes(tuple(str(each) for each in changes if str(each) not in failed), failed)


async def _round_trips(limit_s: float) -> list[RoundTrip]:
    """Call through each queue that a function or a worker consumes; a job of Batch would cost."""
    queues = [each.name for each in conf.current().queues.values() if each.has_workers]
    return await asyncio.gather(*(_round_trip(each, limit_s) for each in queues))


async def _round_trip(queue: str, limit_s: float) -> RoundTrip:
    try:
        invocation = await aenqueue(TASK, queue=queue)
        await invocation.aresult(timeout=limit_s)
    except TimeoutError:
        return RoundTrip(queue, f"it has not ended within {limit_s:g} s.")
    except Exception as error:
        return RoundTrip(queue, f"{type(error).__name__}: {error}")
    return RoundTrip(queue, None)


async def _dead_tasks() -> list[DeadTasks]:
    """Look at some dead letters of each queue in SQS."""
    names = [each.name for each in conf.current().queues.values() if isinstance(each, SQSQueue)]
    return [DeadTasks(name, await learn(_tasks_of(name))) for name in names]


async def _tasks_of(queue: str) -> Counter[str | None]:
    return Counter(each.task_name for each in await apeek_dead_letters(queue))


def _check_ids(names: Iterable[str]) -> None:
    """Raise InvalidFilter for an id that no check has."""
    ids = {each.id for each in examination.CHECKS}
    for name in names:
        if not any(_is_named(id, name) for id in ids):
            raise InvalidFilter(f"There is no check {name!r}.{did_you_mean(name, ids)}")


def _is_named(id: str, name: str) -> bool:
    return id == name or id.startswith(f"{name}.")
