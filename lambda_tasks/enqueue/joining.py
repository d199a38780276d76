"""The records of a transaction's calls, which wait for each other to be written by one INSERT.

They are written before anything can see that they are missing: before the next statement of the
connection, and so before each query, savepoint and end of one, and before the commit. Until then
they wait in the hooks of the transaction (`HandOver`), which Django drops with what is rolled back.
So none can outlive its transaction, and none is left out of it: if the database refuses them, they
still wait, and no commit succeeds.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from django.db import DatabaseError, Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..core.message import Outgoing
from ..core.sql_effects import is_release, is_rollback
from ..database_errors import is_conflict
from ..interrupts import remove_wrapper
from .hand_over import StoringSender, Unstored, hand_overs_on, is_of_test_case

MAX_JOINED: Final = 100
"""The most records that wait; with more of them in one INSERT, each is hardly cheaper."""

DJANGOS_OWN: Final = ("django.db.backends.", "django.contrib.gis.db.backends.")
"""The modules of connections whose statements mean the same now and later. Others may choose the
schema of a tenant at each statement."""


def may_wait(connection: BaseDatabaseWrapper, messages: Sequence[Outgoing]) -> bool:
    """Return whether the record of a call may be written later in the transaction.

    A unique call must hear at once whether it joins another. Several messages have an INSERT of
    their own already. Where someone wraps the statements of the connection, they may depend on
    where they are called, as those of a run do. In a TestCase tests count them. Only a
    transaction that its outermost atomic block commits has a commit to wait for.
    """
    if len(messages) != 1 or not connection.in_atomic_block:
        return False
    message = messages[0].message
    if message.unique or not message.durable:
        return False
    wraps = connection.execute_wrappers
    return (
        (not wraps or (len(wraps) == 1 and isinstance(wraps[0], _RecordWriter)))
        and connection.commit_on_exit
        and not connection.get_rollback()
        and not any(map(is_of_test_case, connection.atomic_blocks))
        and type(connection).__module__.startswith(DJANGOS_OWN)
    )


def write_in_time(connection: BaseDatabaseWrapper) -> None:
    """Have the waiting records of a transaction written before anything can miss them.

    Call it after each call that waits. Raises the database's errors, where so many wait that they
    are written at once.
    """
    wraps: list[Any] = connection.execute_wrappers
    writer: _RecordWriter = wraps[0] if wraps else _RecordWriter(connection)
    writer.count()


class _RecordWriter:
    """The writer of one connection's waiting records, and its wrapper of statements and commit."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._n_waiting = 0
        self._commit, self._replaced = connection.commit, vars(connection).get("commit")
        connection.commit = self.commit  # type: ignore[method-assign]
        # It is the only one now (may_wait), so that it sees statements before later wrappers do.
        connection.execute_wrappers.append(self)

    def count(self) -> None:
        """Count one more record that waits, and write all if they are many."""
        self._n_waiting += 1
        if self._n_waiting >= MAX_JOINED:
            self._write()

    def __call__(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
    ) -> Any:
        """Write the records and execute a statement, as Django's wrapper.

        A rollback undoes them all, because the savepoint that it goes back to was a statement.
        """
        text = sql.lower() if isinstance(sql, str) else ""
        if is_rollback(text):
            done = execute(sql, params, many, context)
            for each in hand_overs_on(self._connection):
                each.drop_unstored()
            return done
        if is_release(text):
            self._write_before_release()
        else:
            self._write()
        return execute(sql, params, many, context)

    def commit(self) -> None:
        """Write the records and commit. If that fails, everything is rolled back."""
        if not self._connection.in_atomic_block:  # Django leaves the block first
            try:
                self._write()
            except BaseException:
                self._roll_back()
                raise
        self._commit()

    def _roll_back(self) -> None:
        # Django does so after a DatabaseError only. After any other error, or a time limit, it
        # would switch autocommit on, which commits on MySQL.
        try:
            self._connection.rollback()
        except Error:
            self._connection.close()

    def _write_before_release(self) -> None:
        """Write the records. If that fails, the block that ends can still be rolled back alone."""
        try:
            self._write()
        except DatabaseError as error:
            if not is_conflict(error):  # which on MySQL has rolled back the whole transaction
                self._connection.set_rollback(False)
            raise

    def _write(self) -> None:
        """Write the records that wait, under the wrappers of their calls: none."""
        wraps = self._connection.execute_wrappers
        others, wraps[:] = wraps[:], []
        try:
            _store(self._connection)
        finally:
            wraps[:0] = others  # before those that came meanwhile, as a tracer's with a cursor
        self._remove()

    def _remove(self) -> None:
        remove_wrapper(self._connection, self)
        if vars(self._connection).get("commit") == self.commit:
            del self._connection.commit
            if self._replaced is not None:
                self._connection.commit = self._replaced  # type: ignore[method-assign]


def _store(connection: BaseDatabaseWrapper) -> None:
    """Write the records of all calls that wait on a connection."""
    waiting = [each for each in hand_overs_on(connection) if each.unstored]
    unstored = [each for hand_over in waiting for each in hand_over.unstored]
    if not unstored or not _store_together(connection, waiting[0].enqueuer, unstored):
        for each in unstored:
            _store_alone(waiting[0].enqueuer, each)
    for hand_over in waiting:
        hand_over.unstored = []


def _store_together(
    connection: BaseDatabaseWrapper, enqueuer: StoringSender, unstored: Sequence[Unstored]
) -> bool:
    """Write several records by one INSERT; return False where the database refuses one of them."""
    if len(unstored) == 1:
        return False
    try:
        with transaction.atomic(using=connection.alias):
            _store_now(enqueuer, unstored)
    except DatabaseError:
        if connection.needs_rollback:  # not even to the savepoint, so it is about no single record
            raise
        return False
    return True


def _store_alone(enqueuer: StoringSender, unstored: Unstored) -> None:
    """Write one record. An error says which one it is about: its call has returned before."""
    try:
        _store_now(enqueuer, [unstored])
    except Exception as error:
        message = unstored.outgoing.message
        error.add_note(
            f"The error is about the record of {message.task_name} ({message.invocation_id}), "
            "which was called before in this transaction."
        )
        raise


def _store_now(enqueuer: StoringSender, unstored: Sequence[Unstored]) -> None:
    now = time.monotonic()
    ages_s = [now - each.called_at for each in unstored]
    enqueuer.store([each.outgoing for each in unstored], ages_s)
