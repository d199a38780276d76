"""The database: its connections, clock, transactions and tables."""

import math
from collections.abc import Iterator
from typing import Final

from django.conf import settings as django_settings

from .. import conf
from ..core.aws_values import MEMORY_MB, VISIBLE_CPUS, connections_needed
from .facts import LiveFunction, System, is_inside
from .findings import Found, check

MAX_SKEW_S: Final = 5.0
"""Seconds that clocks may differ. AWS's answers tell the time in whole seconds."""

ROOM: Final = 0.8
"""The share of the connections that functions may use; the rest is for web processes and people."""


@check(
    "database.connections",
    "error",
    why="When the database refuses a connection, tasks lose attempts, and so do web requests.",
)
def connections(system: System) -> Iterator[Found]:
    """Yield that functions may open more connections than the database has."""
    server = system.server.value
    batches = [(each.batches, each.function) for each in system.mappings.value]
    # mapping.concurrency says where nothing limits the batches.
    limited = [(number, function) for number, function in batches if number is not None]
    if server.max_connections is None or server.is_behind_pooler or len(limited) < len(batches):
        return
    most, concurrency = server.max_connections, conf.current().concurrency
    asked = sum(
        connections_needed(number, concurrency=concurrency, processes=_processes(function))
        for number, function in limited
    )
    if asked > most * ROOM:
        yield Found(
            f"Functions may open {asked:,} connections at once, and the database {server.alias!r} "
            f"allows {most:,}, of which {server.n_connections:,} are open now.",
            f"{most * ROOM:.0f} or less, which leaves room for web processes.",
            "Lower MaximumConcurrency, LAMBDA_TASKS_CONCURRENCY or LAMBDA_TASKS_PROCESSES, or put "
            "RDS Proxy or PgBouncer in front.",
            "ScalingConfig: {MaximumConcurrency: ...}",
            "error" if asked > most else "warning",
        )


def _processes(function: LiveFunction) -> int:
    """Return how many worker processes a function starts."""
    if is_inside() or hasattr(django_settings, "LAMBDA_TASKS_PROCESSES"):
        return conf.current().processes
    # By default as many as the CPUs that it sees, and not those of this machine.
    memory = int(function.configuration.value["MemorySize"])
    return max(VISIBLE_CPUS, math.ceil(memory / MEMORY_MB))


@check(
    "database.clock",
    "warning",
    why="Leases and due times are by the database's clock: where it is wrong, what is due in SQS "
    "and in the records differs by as much.",
)
def database_clock(system: System) -> Iterator[Found]:
    """Yield that the clock of the database is not that of this machine."""
    yield from _skew("The database", system.database_ahead_s.value)


@check(
    "aws.clock",
    "warning",
    why="AWS refuses requests whose time differs by more than five minutes, and delays by this "
    "clock are wrong.",
)
def aws_clock(system: System) -> Iterator[Found]:
    """Yield that AWS's clock is not that of this machine."""
    yield from _skew("AWS", system.aws_ahead_s.value)


@check(
    "aws.silent",
    "error",
    why="Whether AWS is set as it should be is unknown; the pages keep the last report that knew.",
)
def aws_silent(system: System) -> Iterator[Found]:
    """Yield that AWS has answered no question at all."""
    if system.aws_refusal:
        yield Found(
            f"AWS has answered nothing. {system.aws_refusal}",
            "Answers of AWS.",
            "Look at the credentials, the region, the network and the permissions of the doctor's "
            "caller.",
        )


def _skew(whose: str, ahead_s: float) -> Iterator[Found]:
    if abs(ahead_s) > MAX_SKEW_S:
        yield Found(
            f"{whose} is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this "
            "machine's clock.",
            f"{MAX_SKEW_S:g} s or less.",
            "Let both follow NTP (chrony; on EC2 and in Lambda, Amazon Time Sync).",
        )


@check(
    "database.isolation",
    "info",
    why="Tasks that write the same rows at the same time meet conflicts, and begin again.",
)
def isolation(system: System) -> Iterator[Found]:
    """Yield that transactions are stricter than Django's default."""
    found = system.server.value.isolation
    if found not in ("", "read committed"):
        yield Found(
            f"Transactions are {found!r}.",
            "'read committed', unless your code needs more.",
            "Remove the isolation level from OPTIONS in DATABASES, or from the database itself.",
        )


@check(
    "database.pooler",
    "warning",
    why="A pooler of transactions loses a cursor between two of them: .iterator() fails.",
)
def pooler(system: System) -> Iterator[Found]:
    """Yield that Django uses cursors of the server's through a pooler."""
    server = system.server.value
    if server.is_behind_pooler and server.has_server_side_cursors:
        yield Found(
            f"The database {server.alias!r} is behind a pooler, and Django uses server-side "
            "cursors.",
            "No server-side cursors.",
            f'DATABASES["{server.alias}"]["DISABLE_SERVER_SIDE_CURSORS"] = True',
        )


@check(
    "database.migrations",
    "error",
    why="Code whose tables or columns are missing fails, in tasks and in calls.",
)
def migrations(system: System) -> Iterator[Found]:
    """Yield that migrations are not applied."""
    unapplied = system.migrations.value.unapplied
    if unapplied:
        shown = ", ".join(unapplied[:5]) + (", ..." if len(unapplied) > 5 else "")
        yield Found(
            f"Not applied: {shown}.",
            "The migrations of this release are applied before it runs.",
            "python manage.py migrate",
        )


@check(
    "release.older",
    "warning",
    why="This side is older than the tables: what it writes lacks what the newer side expects.",
)
def older(system: System) -> Iterator[Found]:
    """Yield that the tables have migrations of the library that this release does not know."""
    unknown = system.migrations.value.unknown
    if unknown:
        yield Found(
            f"The database has {', '.join(unknown)}, which this release does not know.",
            "One version of lambda-tasks on all sides.",
            "Deploy the newer version here, too.",
        )


CHECKS: Final = (
    connections, database_clock, aws_clock, aws_silent, isolation, pooler, migrations, older
)  # fmt: skip
