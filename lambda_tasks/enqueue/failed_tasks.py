"""The error of a sender that has run tasks itself: it brings each caller the errors of its own."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from ..core.message import Outgoing


class TasksFailed(Exception):
    """Tasks have failed that a sender has run itself. `errors` has theirs, by invocation id."""

    def __init__(self, errors: Mapping[UUID, BaseException]) -> None:
        super().__init__(errors)
        self.errors = errors

    def raise_for(self, messages: Sequence[Outgoing]) -> None:
        """Raise the error of the one of these messages that has failed, or a group of several."""
        ids = [each.message.invocation_id for each in messages]
        errors = [self.errors[id] for id in ids if id in self.errors]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup(f"{len(errors)} tasks have failed", errors)
