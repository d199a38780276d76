"""The journal of a durable function that is called directly: it keeps nothing."""

import uuid
from collections.abc import Sequence
from typing import Any

from django.db import transaction

from ..core.durable import Checkpoint


class DirectJournal:
    """The journal of a direct call, without a record. Its steps are transactions; it can't wait."""

    is_direct = True
    woke = None
    is_undo = False
    n_undone = 0

    def __init__(self) -> None:
        self.call_id = uuid.uuid4()
        self.is_replaying = False
        self.pending: list[Checkpoint] = []
        self.suspension = None
        self.interruption = None
        self._block: Any = None

    def read(self) -> Sequence[Checkpoint]:
        """Return nothing: nothing is kept."""
        return ()

    def begin(self) -> None:
        """Open the transaction of a step."""
        self._block = transaction.atomic()
        self._block.__enter__()

    def commit(self, *steps: Checkpoint) -> None:
        """Commit the transaction of a step."""
        block, self._block = self._block, None
        block.__exit__(None, None, None)

    def flush(self) -> None:
        """Forget what must be undone: who called the function sees its error."""
        self.pending.clear()

    def roll_back(self, error: BaseException) -> None:
        """Roll back the transaction of a step."""
        block, self._block = self._block, None
        if block is not None:
            block.__exit__(type(error), error, error.__traceback__)

    def is_outcome(self, error: BaseException) -> bool:
        """Return False: no later run needs the error."""
        return False

    def refuse_direct(self, method: str) -> None:
        """Raise RuntimeError: a direct call can't wait for others."""
        raise RuntimeError(
            f"{method}() needs a run that can end and go on later, and the function is called "
            "directly. Enqueue it; in a test, run it by lambda_tasks.testing.run_enqueued()."
        )
