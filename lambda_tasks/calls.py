"""One run of a task that @lambda_task has made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .context import TaskContext
from .core.arguments import Arguments, refuse_positional
from .core.lifecycle import Outcome
from .core.message import Message
from .core.retries import RetryRule


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionCall:
    """See ports.TaskCall. Nobody but the record and the log hears of it."""

    message: Message
    arguments: Arguments
    function: Callable[[Mapping[str, Any], TaskContext], Any]
    retry_rule: RetryRule

    @property
    def has_listeners(self) -> bool:
        """See ports.TaskCall."""
        return False

    def started(self) -> None:
        """See ports.TaskCall."""

    def call(self, context: TaskContext) -> Any:
        """Raises pydantic.ValidationError or TypeError for arguments that can't be its own."""
        refuse_positional(self.message.task_name, self.message.args)
        return self.function(self.arguments.from_json(self.message.kwargs), context)

    def ignores(self, error: BaseException) -> bool:
        """See ports.TaskCall."""
        return self.retry_rule.ignores(error)

    def retry_delay_s(self, error: BaseException, *, jitter_s: float) -> float | None:
        """See ports.TaskCall."""
        if not self.retry_rule.retries(error):
            return None
        return self.retry_rule.delay_s(error, n_retries=self.message.n_retries, jitter_s=jitter_s)

    def ended(self, outcome: Outcome, error: BaseException | None) -> None:
        """See ports.TaskCall."""
