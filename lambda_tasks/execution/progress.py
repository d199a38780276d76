"""The writes of a run before its end: the state that it saves, and its progress."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Final

from django.db import DatabaseError, connections

from .. import interrupts, pools
from ..core.lifecycle import Claim
from ..core.message import encode_json, size_bytes
from ..core.results import to_json_values
from ..database_errors import mark_as_library_error
from ..ports import Claims
from .connections import OUTAGES, refresh
from .interruptible_thread import InterruptibleThread
from .late_begin import is_writer

MAX_STATE_BYTES: Final = 64 * 1024
"""Largest size of a saved state, as JSON."""

SHOW_LIMIT_S: Final = 5.0
"""Seconds for the database to write a progress."""

SHOW_GIVE_UP_S: Final = 20.0
"""Seconds for that, for the progress of other runs before it, and for a new connection."""

logger = logging.getLogger("lambda_tasks")


@dataclass(frozen=True, slots=True)
class ProgressRecorder:
    """The writer of one run's state and progress. See context.Recorder.

    It writes nothing once the claim is lost.
    """

    claim: Claim
    """The claim of the run."""
    task_name: str
    """The dotted name of the task, for messages."""
    claims: Claims
    """The port to the records."""

    def save(self, state: object) -> None:
        """Save the state on the run's connection, in its transaction. See TaskContext.save()."""
        value = state_as_json(state, task_name=self.task_name)
        try:
            self.claims.save_state(self.claim, value)
        except DatabaseError as error:
            mark_as_library_error(error)
            raise

    def show(self, done: float, total: float | None, text: str) -> None:
        """Write the progress on another connection, so that it is visible before the commit.

        SQLite allows one writer at a time: once the run has written, it is written there in the
        run's transaction.
        """
        progress = {"done": done, "total": total, "text": text}
        connection = connections[self.claims.alias]
        if is_writer(connection) or not connection.in_atomic_block:
            self.claims.show_progress(self.claim, progress)
        else:
            self._show_on_progress_thread(progress)

    def _show_on_progress_thread(self, progress: object) -> None:
        """Write the progress on the progress thread. An outage is logged, and the task goes on."""
        thread = _progress_thread()
        try:
            thread.submit(self._write_progress, progress).result(SHOW_GIVE_UP_S)
        except TimeoutError:
            thread.give_up()
            logger.warning(
                "The progress of %s (%s) can't be shown: no answer from the database in %g s",
                self.task_name, self.claim.invocation_id, SHOW_GIVE_UP_S,
            )  # fmt: skip
        except OUTAGES:
            logger.warning(
                "The progress of %s (%s) can't be shown",
                self.task_name, self.claim.invocation_id, exc_info=True,
            )  # fmt: skip

    def _write_progress(self, progress: object) -> None:
        refresh()
        with pools.borrowed_connections(), interrupts.interrupt_after(SHOW_LIMIT_S):
            self.claims.show_progress(self.claim, progress)


def state_as_json(state: object, *, task_name: str) -> object:
    """Return a state as JSON values.

    Raises TypeError if it is not JSON, and ValueError if it is larger than MAX_STATE_BYTES.
    """
    what = f"the state of {task_name}"
    value = to_json_values(state, what=what)
    size = size_bytes(encode_json(value, what=what))
    if size > MAX_STATE_BYTES:
        raise ValueError(
            f"{what} has {size} bytes and may have {MAX_STATE_BYTES}. Store the data in one of "
            "your tables, and its key in the state."
        )
    return value


def close() -> None:
    """Close the connection for progress, if there is one."""
    if _progress_thread.cache_info().currsize:
        thread = _progress_thread()
        _progress_thread.cache_clear()
        with suppress(TimeoutError):
            thread.submit(connections.close_all).result(SHOW_GIVE_UP_S)
        thread.shutdown(wait=False)


@cache
def _progress_thread() -> InterruptibleThread:
    """Return the thread, and so the connection, for the progress of all runs of this process."""
    return InterruptibleThread("lambda_tasks-progress")


os.register_at_fork(after_in_child=_progress_thread.cache_clear)
