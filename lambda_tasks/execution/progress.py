"""What a run writes into its record before its end: its state, and how far it is."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final

from django.db import connections

from ..core.arguments import to_json_values
from ..core.lifecycle import Claim
from ..core.message import encode_json
from ..ports import Claims

MAX_STATE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ProgressRecorder:
    """See context.Recorder. Writes nothing once the claim is lost."""

    claim: Claim
    task_name: str
    claims: Claims

    def save(self, state: object) -> None:
        """On the run's own connection, with its writes. See TaskContext.save()."""
        value = checked_state(state, task_name=self.task_name)
        self.claims.save_state(self.claim, value)

    def show(self, done: float, total: float | None, text: str) -> None:
        """On another connection, where others can see it before the run commits.

        SQLite has one writer at a time, so there it is written with the run.
        """
        progress = {"done": done, "total": total, "text": text}
        connection = connections[self.claims.alias]
        if connection.vendor == "sqlite" or not connection.in_atomic_block:
            self.claims.show_progress(self.claim, progress)
        else:
            _beside().submit(self.claims.show_progress, self.claim, progress).result()


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
        _beside().submit(connections.close_all)
        _beside().shutdown()
        _beside.cache_clear()


@cache
def _beside() -> ThreadPoolExecutor:
    """One thread, and so one connection, for the progress of all runs of this process."""
    return ThreadPoolExecutor(1, thread_name_prefix="lambda_tasks-progress")


os.register_at_fork(after_in_child=_beside.cache_clear)
