"""What is wrong with the deployment, and the changes that put right what is safe."""

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

from asgiref.sync import async_to_sync, sync_to_async

from .. import conf, runtime
from ..core.spelling import did_you_mean
from ..database_calls import call_database
from ..doctor import examination, fixing
from ..doctor.findings import Finding
from ..doctor.round_trips import TASK, RoundTrip
from ..errors import InvalidFilter
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..logging import log_error
from ..models import DoctorReport
from ..records import reports
from ..twins import sync_form
from .checking import check_time
from .steering import enqueue

logger = logging.getLogger("lambda_tasks")

LIMIT: Final = timedelta(minutes=1)
"""How long all of it may take, unless a caller says otherwise."""

KEEP_LIMIT_S: Final = 2.0
"""Seconds in which what was found is kept, beyond that limit."""

MAX_KEPT: Final = 200
"""The most findings that are kept, the worst ones."""

MAX_TEXT: Final = 2000
"""The most characters of a text that is kept: a policy of a queue has more than a thousand."""


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

    Reads settings, database, and from AWS queues, event source mappings, functions, logs,
    schedules, alarms, and what jobs of AWS Batch need. With `inside`, each function is invoked to
    examine itself, too. With `round_trip`, a call is enqueued to each queue, except those of AWS
    Batch, and has to run. With `dead_letters`, some of each queue are received, and stay there.
    `ignore` has ids of checks to leave out; "queue" leaves out all that begin with "queue.". All of
    it takes up to `within`; what was not read by then is not checked. What is found is kept for the
    admin's pages: see last_report(). Where AWS answers nothing, the report before stays. Raises
    ImproperlyConfigured for settings that are invalid, and InvalidFilter for an id that no check
    has.
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
    deadline = time.monotonic() + within.total_seconds()
    # A job of AWS Batch would cost.
    queues = [each.name for each in conf.current().queues.values() if each.has_workers]
    examined = await examination.examine(
        runtime.current(),
        inside=inside,
        dead_letters=dead_letters,
        trips=[_round_trip(each, deadline) for each in queues] if round_trip else (),
        deadline=deadline,
    )
    found = [
        each for each in examined.findings if not any(_is_named(each.id, name) for name in ignored)
    ]
    await _keep(found, ignored, examined)
    return found


@sync_form("alast_report()")
def last_report() -> DoctorReport | None:
    """Return what doctor() has found last, whoever called it; None if nobody has.

    Asks AWS nothing. `findings` are the worst 200, and long texts are cut off. If AWS has answered
    nothing since, `failed_at` and `failure` say when and why.
    """
    return reports.read_last()


async def alast_report() -> DoctorReport | None:
    """See last_report()."""
    return await sync_to_async(last_report)()


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


async def _round_trip(queue: str, deadline: float) -> RoundTrip:
    """Call a task through a queue, and wait for its end until a time of `time.monotonic()`."""
    left_s = max(deadline - time.monotonic(), 0.0)
    try:
        async with asyncio.timeout(left_s):
            limit_s = min(left_s, LIBRARY_STATEMENT_LIMIT_S)
            invocation = await call_database(enqueue, TASK, queue=queue, limit_s=limit_s)
            await invocation.aresult()
    except TimeoutError:
        return RoundTrip(queue, "it has not ended in time.")
    except Exception as error:
        return RoundTrip(queue, f"{type(error).__name__}: {error}")
    return RoundTrip(queue, None)


async def _keep(
    findings: Sequence[Finding], ignored: Sequence[str], examined: examination.Examination
) -> None:
    """Keep what was found, for the pages. It counts although it can't be kept."""
    found = [each.as_json() for each in findings[:MAX_KEPT]]
    compared = {name: [asdict(each) for each in pair] for name, pair in examined.queues.items()}
    try:
        await call_database(
            reports.keep,
            findings=_short(found),
            n_findings=len(findings),
            ignored=ignored,
            queues=_short(compared),
            failure=_short(examined.aws_refusal),
            limit_s=KEEP_LIMIT_S,
        )
    except Exception as error:
        log_error(logger, error, "What the doctor has found could not be kept for the pages")


def _short(value: Any) -> Any:
    """Return a JSON value whose texts are cut off where they are too long for a page."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}…"
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_short(each) for each in value]
    return value


def _check_ids(names: Iterable[str]) -> None:
    """Raise InvalidFilter for an id that no check has."""
    ids = {each.id for each in examination.CHECKS}
    for name in names:
        if not any(_is_named(id, name) for id in ids):
            raise InvalidFilter(f"There is no check {name!r}.{did_you_mean(name, ids)}")


def _is_named(id: str, name: str) -> bool:
    return id == name or id.startswith(f"{name}.")
