"""Retries of the library's own statements after a conflict or a lost connection.

Retries are safe, because each statement changes only rows in the state that its caller expects.
"""

import functools
import itertools
import random
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from django.db import Error, connections

from .. import interrupts
from ..database_errors import Meaning, close_failed_connections, lacks_schema, meaning_of
from ..errors import NotMigrated
from ..pools import acquire, add_remedy, is_exhausted
from .database import record_alias

P = ParamSpec("P")
T = TypeVar("T")

MAX_TRIES: Final = 8

RETRY_CONFLICTS_FOR_S: Final = 10.0
"""Seconds after which a conflict is not retried any more: a single try may wait for a lock."""

FIRST_PAUSE_S: Final = 0.01
"""The longest random pause before the first retry, doubled for each further one."""


def with_retries(statements: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that executes statements, so that it is retried."""

    @functools.wraps(statements)
    def with_tries(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_with_retries(record_alias(), lambda: statements(*args, **kwargs))

    return with_tries


def run_with_retries(alias: str, statements: Callable[[], T]) -> T:
    """Call a function, and retry it after a conflict or a lost connection.

    It is called up to MAX_TRIES times, and in a transaction once: a conflict there undoes the
    statements of the caller, and only the caller can repeat those. Raises NotMigrated where a table
    or column is missing.
    """
    try:
        return statements() if is_in_transaction(alias) else _try(alias, statements)
    except Error as error:
        if lacks_schema(error):
            raise NotMigrated(alias=alias) from None
        raise


def _try(alias: str, statements: Callable[[], T]) -> T:
    started_at, had_outage = time.monotonic(), False
    for n_tries in itertools.count(1):
        try:
            acquire(connections[alias])
            interrupts.connect(connections[alias])
            return statements()
        except Error as error:
            if is_exhausted(error):
                add_remedy(error)
                raise  # the wait for a connection of the pool already took its time
            meaning = meaning_of(error)
            is_late = time.monotonic() - started_at > RETRY_CONFLICTS_FOR_S
            may_help = meaning is Meaning.CONFLICT and not is_late
            # An outage is retried once, on a new connection: a dead connection may have used up
            # the whole time limit.
            if not may_help and (meaning is not Meaning.OUTAGE or had_outage):
                raise
            if n_tries == MAX_TRIES:
                raise
        if meaning is Meaning.OUTAGE:
            had_outage = True
            close_failed_connections()
        else:
            time.sleep(random.uniform(0.0, FIRST_PAUSE_S * 2**n_tries))
    raise AssertionError("unreachable")


def is_in_transaction(alias: str) -> bool:
    """Return whether this thread's statements are part of a transaction."""
    connection = connections[alias]
    is_open = connection.connection is not None
    return connection.in_atomic_block or (is_open and not connection.get_autocommit())
