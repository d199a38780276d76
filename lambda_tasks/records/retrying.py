"""Our own statements are tried again where they met a conflict, or a connection that was cut.

Each may be: it changes only what is still as its caller believes it to be.
"""

import functools
import random
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from django.db import Error, connections

from .. import interrupts
from ..database_errors import Meaning, close_failed_connections, meaning_of
from ..pools import acquire, add_remedy, is_exhausted
from .database import record_alias

P = ParamSpec("P")
T = TypeVar("T")

MOST_TRIES: Final = 8
LONGEST_S: Final = 10.0
"""After so long a conflict is not tried again: a single try may wait for a lock."""

FIRST_PAUSE_S: Final = 0.01


def tried_again(statements: Callable[P, T]) -> Callable[P, T]:
    """A function that asks for something of the records, with its tries."""

    @functools.wraps(statements)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        return try_again(record_alias(), lambda: statements(*args, **kwargs))

    return called


def try_again(alias: str, statements: Callable[[], T]) -> T:
    """Call it until it meets nobody, but not for ever; in a transaction once, as that is whole or
    not at all, and another's."""
    if is_in_transaction(alias):
        return statements()
    began_at, was_cut = time.monotonic(), False
    for n_tries in range(1, MOST_TRIES):
        try:
            acquire(connections[alias])
            interrupts.connect(connections[alias])
            return statements()
        except Error as error:
            if is_exhausted(error):
                add_remedy(error)
                raise  # it has waited for long enough
            meaning = meaning_of(error)
            is_late = time.monotonic() - began_at > LONGEST_S
            may_help = meaning is Meaning.CONFLICT and not is_late
            # A silent connection has taken all of its time; a new one has another.
            if not may_help and (meaning is not Meaning.OUTAGE or was_cut):
                raise
        if meaning is Meaning.OUTAGE:
            was_cut = True
            close_failed_connections()
        else:
            time.sleep(random.uniform(0.0, FIRST_PAUSE_S * 2**n_tries))
    return statements()


def is_in_transaction(alias: str) -> bool:
    """Whether what this thread asks is part of a transaction."""
    connection = connections[alias]
    is_open = connection.connection is not None
    return connection.in_atomic_block or (is_open and not connection.get_autocommit())
