"""The plan of a deployment: which queues and what function this project needs."""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from django.core.exceptions import ImproperlyConfigured

from .. import conf, registry
from ..core.aws_values import (
    DEAD_LETTER_SUFFIX,
    FUNCTION_MARGIN_S,
    MAX_QUEUE_NAME,
    QueuePlan,
)
from ..errors import UnknownTask
from ..ports import Task
from ..queues.base import MAX_LAMBDA_TIMEOUT_S
from ..queues.batch import BatchQueue
from ..queues.sqs import SQSQueue
from ..queues.sqs_names import NAME


@dataclass(frozen=True, slots=True)
class Plan:
    """What the settings ask of AWS."""

    function_timeout_s: int
    """The timeout of the function that consumes all queues, in seconds."""
    queues: tuple[QueuePlan, ...]
    """The SQS queues. Queues of the settings that share one in AWS are one here."""
    batch_queues: tuple[BatchQueue, ...]
    job_limits_s: Mapping[str, float]
    """The longest hard timeouts of tasks on the queues of AWS Batch, by their names."""


def make_plan(*, prefix: str | None = None) -> Plan:
    """Return the plan of this project.

    `prefix` precedes the names of the queues in AWS, in place of the one in the settings.

    Imports the modules that declare tasks. Raises ImproperlyConfigured for a name that SQS refuses.
    """
    registry.discover()
    settings = conf.current()
    timeout_s = _function_timeout_s(settings)
    plans: dict[str, QueuePlan] = {}
    for queue in settings.queues.values():
        if isinstance(queue, SQSQueue):
            name = queue.queue_name
            if prefix is not None:
                name = prefix + name.removeprefix(settings.queue_prefix)
            _check_name(name, queue.name)
            plans.setdefault(
                name,
                QueuePlan(
                    setting=queue.name,
                    name=name,
                    function_timeout_s=timeout_s,
                    max_message_bytes=queue.max_message_bytes,
                ),
            )
    batch = tuple(each for each in settings.queues.values() if isinstance(each, BatchQueue))
    limits_s = {each.name: _longest_s(settings, {each.name}) for each in batch}
    return Plan(timeout_s, tuple(plans.values()), batch, limits_s)


def _function_timeout_s(settings: conf.Settings) -> int:
    """Return the longest hard timeout of tasks on SQS queues, and the time to write its record."""
    sqs = {name for name, queue in settings.queues.items() if isinstance(queue, SQSQueue)}
    return min(math.ceil(_longest_s(settings, sqs) + FUNCTION_MARGIN_S), MAX_LAMBDA_TIMEOUT_S)


def _longest_s(settings: conf.Settings, queues: Collection[str]) -> float:
    """Return the longest hard timeout of tasks on these queues; by default that of the settings."""
    return max(
        (
            task.options.hard_timeout or settings.default_hard_timeout
            for task in _tasks()
            if task.options.queue in queues
        ),
        default=settings.default_hard_timeout,
    )


def _tasks() -> Iterator[Task]:
    for name in registry.names():
        with suppress(UnknownTask):
            yield registry.resolve(name)


def _check_name(name: str, setting: str) -> None:
    longest = MAX_QUEUE_NAME - len(DEAD_LETTER_SUFFIX)
    if NAME.fullmatch(name) and len(name) <= longest:
        return
    raise ImproperlyConfigured(
        f"The queue {setting!r} of LAMBDA_TASKS_QUEUES is called {name!r} in AWS. Use letters, "
        f"digits, - and _, at most {longest} characters: its dead-letter queue is called "
        f"NAME{DEAD_LETTER_SUFFIX}."
    )
