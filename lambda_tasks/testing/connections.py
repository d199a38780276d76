"""The connections of an async test of pytest.

`django_db` opens the test's transaction on the main thread. Coroutines use the connections of
another one, so that the test would not be rolled back, and in an SQLite in memory would find its
tables locked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from asgiref.sync import SyncToAsync
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper


@contextmanager
def transactions_for_coroutines() -> Iterator[None]:
    """Let coroutines use the connections of this thread that are in a transaction."""
    shared = {each.alias: each for each in connections.all() if each.in_atomic_block}
    thread = SyncToAsync.single_thread_executor
    for each in shared.values():
        each.inc_thread_sharing()
    before = thread.submit(_exchange, shared).result()
    try:
        yield
    finally:
        thread.submit(_exchange, before).result()
        for each in shared.values():
            each.dec_thread_sharing()


def _exchange(new: Mapping[str, BaseDatabaseWrapper]) -> dict[str, BaseDatabaseWrapper]:
    """Replace connections of the calling thread, and return those that it had."""
    before = {alias: connections[alias] for alias in new}
    for alias, connection in new.items():
        connections[alias] = connection
    return before
