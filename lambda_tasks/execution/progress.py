"""What a run writes into its record before its end: its state, and how far it is."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final

from django.db import DatabaseError, connections

from .. import interrupts, pools
from ..core.arguments import to_json_values
from ..core.lifecycle import Claim
from ..core.message import encode_json
from ..database_errors import mark_as_library_error
from ..ports import Claims
from .connections import OUTAGES, refresh
from .own_thread import OwnThread

MAX_STATE_BYTES: Final = 64 * 1024

SHOW_S: Final = 5.0
"""For the database to take a progress."""

GIVE_UP_S: Final = 20.0
"""For that, for those of others before, and for a new connection."""

logger = logging.getLogger("lambda_tasks")


@dataclass(frozen=True, slots=True)
class ProgressRecorder:
    """See context.Recorder. Writes nothing once the claim is lost."""

    claim: Claim
    task_name: str
    claims: Claims

    def save(self, state: object) -> None:
        """On the run's own connection, with its writes. See TaskContext.save()."""
        value = checked_state(state, task_name=self.task_name)
        try:
            self.claims.save_state(self.claim, value)
        except DatabaseError as error:
            mark_as_library_error(error)
            raise

    def show(self, done: float, total: float | None, text: str) -> None:
        """On another connection, where others can see it before the run commits.

        SQLite has one writer at a time, so there it is written with the run.
        """
        progress = {"done": done, "total": total, "text": text}
        connection = connections[self.claims.alias]
        if connection.vendor == "sqlite" or not connection.in_atomic_block:
            self.claims.show_progress(self.claim, progress)
        else:
            self._show_beside(progress)

    def _show_beside(self, progress: object) -> None:
        """A courtesy: where the database does not take it, the task goes on all the same."""
        thread = _beside()
        try:
            thread.submit(self._show_refreshed, progress).result(GIVE_UP_S)
        except TimeoutError:
            thread.give_up()
            logger.warning("%s: its progress can't be shown: no answer", self.task_name)
        except OUTAGES:
            logger.warning("%s: its progress can't be shown", self.task_name, exc_info=True)

    def _show_refreshed(self, progress: object) -> None:
        refresh()
        with pools.borrowed_connections(), interrupts.interrupt_after(SHOW_S):
            self.claims.show_progress(self.claim, progress)


def checked_state(state: object, *, task_name: str) -> object:
    """A state as JSON values. Raises TypeError for other values, ValueError for too many."""
    what = f"the state of {task_name}"
    value = to_json_values(state, what=what)
    size = len(encode_json(value, what=what))
    if size > MAX_STATE_BYTES:
        raise ValueError(
            f"{what} has {size} bytes and may have {MAX_STATE_BYTES}. Store the "
            "data in a table of yours, and its key in the state."
        )
    return value


def close() -> None:
    """Close the connection for progress, if there is one."""
    if _beside.cache_info().currsize:
        thread = _beside()
        _beside.cache_clear()
        with suppress(TimeoutError):
            thread.submit(connections.close_all).result(GIVE_UP_S)
        thread.shutdown(wait=False)


@cache
def _beside() -> OwnThread:
    """One thread, and so one connection, for the progress of all runs of this process."""
    return OwnThread("lambda_tasks-progress")


os.register_at_fork(after_in_child=_beside.cache_clear)
