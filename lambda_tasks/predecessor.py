"""What users of django-lambda-tasks 0.8.1 import, and what is private or elsewhere by now.

The modules that had these names find them here. Each use gives a DeprecationWarning.
"""

import warnings
from collections.abc import Callable
from typing import Any, Final, Self

from django.utils.module_loading import import_string

from . import conf
from .cold_start.environment_loader import load_environment
from .cold_start.secret_loader import load_secrets
from .core.retries import MAX_DELAY_S
from .execution.alarm import Alarm
from .queues.base import MAX_LAMBDA_TIMEOUT_S

MAX_DELAY: Final = MAX_DELAY_S
MAX_TIMEOUT: Final = MAX_LAMBDA_TIMEOUT_S
MAX_BATCH_TIMEOUT: Final = 3600
"""The longest hard timeout that 0.8.1 had for tasks of AWS Batch, in seconds."""

resolve_environment = load_environment
resolve_secrets_into_env = load_secrets


class LambdaTasksSettings:
    """The settings, validated, under their names without LAMBDA_TASKS_."""

    def __getattr__(self, name: str) -> Any:
        if not name.isupper():
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(conf.current(), name.lower())

    def queue_max_timeout(self, *, queue: str) -> float:
        """Return the longest hard timeout of a queue's tasks, in seconds."""
        return conf.current().queue(queue).max_timeout_s


class TimeoutContext:
    """A context manager that raises the exceptions of two time limits, in seconds, in its body.

    The body runs on the main thread. In eager mode there are no limits.
    """

    def __init__(self, soft_timeout: float, hard_timeout: float) -> None:
        self.soft_timeout = soft_timeout
        self.hard_timeout = hard_timeout
        self._alarm: Alarm | None = None

    def __enter__(self) -> Self:
        if not conf.current().eager:
            self._alarm = Alarm(self.soft_timeout, self.hard_timeout)
            self._alarm.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._alarm is not None:
            self._alarm.__exit__(*raised)


def finder(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module. `names` maps what is here to what replaces it."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is a name of django-lambda-tasks that will go. {names[name]}",
            DeprecationWarning,
            stacklevel=2,
        )
        return import_string(f"{__name__}.{name}")

    return find
