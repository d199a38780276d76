"""Makes all checks, and returns what they find."""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..database_calls import call_database
from ..runtime import Runtime
from . import (
    alarms,
    databases,
    dead_letters,
    functions,
    jobs,
    mappings,
    project,
    queues,
    releases,
    round_trips,
    ticks,
)
from .comparison import Compared, compare
from .facts import Facts
from .findings import SEVERITIES, Change, Check, Finding, Found, NotChecked
from .inside import Answer, ask_functions
from .reading import read
from .round_trips import RoundTrip

SYSTEM_CHECKS: Final[tuple[Check[Any], ...]] = (
    *project.CHECKS, *databases.CHECKS, *ticks.SYSTEM_CHECKS
)  # fmt: skip

QUEUE_CHECKS: Final[tuple[Check[Any], ...]] = (
    *queues.CHECKS, *mappings.QUEUE_CHECKS, *alarms.QUEUE_CHECKS
)  # fmt: skip

MAPPING_CHECKS: Final[tuple[Check[Any], ...]] = mappings.CHECKS

FUNCTION_CHECKS: Final[tuple[Check[Any], ...]] = (
    *functions.CHECKS, *ticks.FUNCTION_CHECKS, *alarms.FUNCTION_CHECKS
)  # fmt: skip

JOB_CHECKS: Final[tuple[Check[Any], ...]] = jobs.CHECKS

ANSWER_CHECKS: Final[tuple[Check[Any], ...]] = releases.CHECKS

TRIP_CHECKS: Final[tuple[Check[Any], ...]] = round_trips.CHECKS

DEAD_LETTER_CHECKS: Final[tuple[Check[Any], ...]] = dead_letters.CHECKS

CHECKS: Final = (
    *SYSTEM_CHECKS, *QUEUE_CHECKS, *MAPPING_CHECKS, *FUNCTION_CHECKS, *JOB_CHECKS,
    *ANSWER_CHECKS, *TRIP_CHECKS, *DEAD_LETTER_CHECKS,
)  # fmt: skip
"""All checks."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What an examination has found."""

    findings: Sequence[Finding]
    """All that is wrong, and what could not be checked, the worst first."""
    queues: Mapping[str, Sequence[Compared]]
    """How SQS has the queues, by their names in the settings."""
    aws_refusal: str
    """Why AWS has answered nothing at all; "" where it has, or was asked nothing."""


async def examine(
    runtime: Runtime,
    *,
    own_arn: str | None = None,
    inside: bool = False,
    dead_letters: bool = False,
    trips: Iterable[Awaitable[RoundTrip]] = (),
    deadline: float,
) -> Examination:
    """Return all that is wrong, and what could not be checked.

    With `inside`, each function is asked, too. `trips` are made meanwhile. See reading.read() for
    the other parameters.
    """
    (facts, answers), made = await asyncio.gather(
        _look(runtime, own_arn, inside=inside, dead_letters=dead_letters, deadline=deadline),
        asyncio.gather(*trips),
    )
    # On a thread, as checks may import modules and read files.
    findings = await call_database(_judge, facts, answers, made)
    worst_first = sorted(findings, key=lambda each: SEVERITIES.index(each.severity))
    return Examination(worst_first, compare(facts.queues), facts.system.aws_refusal)


async def _look(
    runtime: Runtime,
    own_arn: str | None,
    *,
    inside: bool,
    dead_letters: bool,
    deadline: float,
) -> tuple[Facts, list[Answer]]:
    facts = await read(runtime, own_arn=own_arn, dead_letters=dead_letters, deadline=deadline)
    return facts, await ask_functions(runtime, facts, deadline=deadline) if inside else []


def _judge(facts: Facts, answers: Sequence[Answer], trips: Sequence[RoundTrip]) -> list[Finding]:
    subjects: tuple[tuple[Iterable[object], Sequence[Check[Any]]], ...] = (
        ([facts.system], SYSTEM_CHECKS),
        (facts.queues, QUEUE_CHECKS),
        (facts.mappings, MAPPING_CHECKS),
        (facts.functions, FUNCTION_CHECKS),
        (facts.jobs, JOB_CHECKS),
        (answers, ANSWER_CHECKS),
        (trips, TRIP_CHECKS),
        (facts.dead, DEAD_LETTER_CHECKS),
    )
    return [
        *(
            finding
            for members, checks in subjects
            for subject in members
            for check in checks
            for finding in _findings(check, subject)
        ),
        *_unread(facts),
        *(finding for answer in answers for finding in answer.findings),
    ]


def _unread(facts: Facts) -> Iterator[Finding]:
    """Yield the checks of what nobody knows whether it is there."""
    for queue in facts.queues:
        if (error := queue.mappings.error) is not None:
            of_functions = () if facts.functions else FUNCTION_CHECKS
            for check in (*MAPPING_CHECKS, *of_functions):
                yield _unchecked(check, f"what consumes the {queue}", str(error))


def _findings(check: Check[Any], subject: object) -> Iterator[Finding]:
    try:
        found = list(check.find(subject))
    except NotChecked as reason:
        yield _unchecked(check, str(subject), str(reason))
    except Exception as error:  # an answer of AWS in a form that nobody knew
        yield _unchecked(check, str(subject), f"{type(error).__name__}: {error}")
    else:
        for each in found:
            yield _finding(check, str(subject), each)


def _unchecked(check: Check[Any], where: str, reason: str) -> Finding:
    return Finding(
        id=check.id,
        severity=check.severity,
        is_checked=False,
        where=where,
        found=f"Not checked: {reason}",
        why=check.why,
    )


def _finding(check: Check[Any], where: str, found: Found) -> Finding:
    return Finding(
        id=check.id,
        severity=found.severity or check.severity,
        where=where,
        found=found.found,
        expected=found.expected,
        why=check.why,
        fix=str(found.fix),
        template=found.template,
        change=found.fix if isinstance(found.fix, Change) else None,
    )
