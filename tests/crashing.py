"""A process that dies at any statement, as far as the database can tell, and its successors."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import connection, connections

from lambda_tasks import runtime
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.clock import Now
from lambda_tasks.testing.events import event_of
from lambda_tasks.testing.inline import CapturingRuntime
from tests.conftest import wake_up


class Crash(BaseException):
    """The process has died. What it does from now on reaches no database."""


class Mortal:
    """Delivers messages to the real handler, on this thread, in a process that may die.

    It dies before a statement, a commit included, or wherever the code calls reach(). Then its
    transaction is rolled back, its lease is over, and a new process goes on.
    """

    def __init__(self, lives_for: int | None = None) -> None:
        self.deaths = 0
        self.is_dead = False
        self.lives_for = lives_for
        """The points that it passes before it dies; None for one that lives on."""
        self._runtime = CapturingRuntime()

    @contextmanager
    def living(self) -> Iterator[None]:
        """In the body, statements on this thread's connection are what it may die at."""
        begin, commit = connection.set_autocommit, connection.commit

        def set_autocommit(autocommit: bool, **options: Any) -> None:
            if self.is_dead or not autocommit:
                self.reach("BEGIN")
            begin(autocommit, **options)

        def commit_or_die() -> None:
            try:
                self.reach("COMMIT")
            except Crash:
                connection.rollback()
                raise
            commit()

        connection.set_autocommit = set_autocommit  # type: ignore[method-assign, assignment]
        connection.commit = commit_or_die  # type: ignore[method-assign]
        wrappers = list(connection.execute_wrappers)
        connection.execute_wrappers.append(self._execute)
        try:
            yield
        finally:
            # What the dead process has added goes with it. Django would remove the last one only.
            connection.execute_wrappers[:] = wrappers
            del connection.set_autocommit
            del connection.commit

    def reach(self, point: str) -> None:
        """Die here, if it is time to."""
        if self.is_dead:
            raise Crash(point)
        if self.lives_for is not None:
            self.lives_for -= 1
            if self.lives_for < 0:
                self.is_dead = True
                raise Crash(point)

    def deliver(self, id: UUID, task_name: str) -> bool:
        """Deliver a message; return whether the process has died of it."""
        with runtime.replace_current(self._runtime), self.living():
            try:
                async_to_sync(self._runtime.handle)(event_of([wake_up(id, task_name)]))
            except BaseException:
                if not self.is_dead:
                    raise
        has_died = self.is_dead
        if has_died:
            self._bury()
        return has_died

    def _execute(self, execute: Callable[..., Any], sql: str, *others: Any) -> Any:
        self.reach(sql)
        return execute(sql, *others)

    def _bury(self) -> None:
        self.is_dead, self.lives_for = False, None
        self.deaths += 1
        self._runtime = CapturingRuntime()
        gc.collect()  # Transactions that are left end with what has opened them, and not later.
        connection = connections["default"]
        connection.in_atomic_block = False  # nobody ends the transaction: the server does
        connection.close()
        past = Now() - timedelta(seconds=1)
        TaskRecord.objects.filter(status="RUNNING").update(lease_until=past, look_at=past)
