"""The list of all kinds of queues, and the choice of one by a setting."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from ..core.limits import Rate
from ..core.message import MAX_NAME
from ..ports import Source
from .base import Queue, Wiring, setting_error
from .batch import BatchQueue
from .database import DatabaseQueue
from .sqs import SQSQueue

KINDS: Final[tuple[type[Queue], ...]] = (SQSQueue, BatchQueue, DatabaseQueue)


def parse(setting: str, name: object, value: object) -> Queue:
    """Return the queue of a value of LAMBDA_TASKS_QUEUES.

    Raises ImproperlyConfigured, with the fix, for an invalid name or value.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise setting_error(
            setting, value, f"A queue's name is a text of 1 to {MAX_NAME} characters."
        )
    kind_value, rate = _split_rate(setting, value)
    for kind in KINDS:
        if (queue := kind.parse(setting, name, kind_value)) is not None:
            return queue if rate is None else replace(queue, rate=rate)
    raise setting_error(
        setting,
        value,
        'Use a queue URL, {"queue_url": ...}, {"job_queue_arn": ..., "job_definition_arn": ...} '
        'or {"database": True}.',
    )


def _split_rate(setting: str, value: object) -> tuple[object, Rate | None]:
    """Return a setting without its rate, which queues of all kinds may have, and the rate."""
    if not isinstance(value, Mapping) or "rate" not in value:
        return value, None
    try:
        rate = Rate.parse(value["rate"])
    except ValueError as error:
        raise setting_error(setting, value, f"rate is {error}") from None
    return {name: each for name, each in value.items() if name != "rate"}, rate


def make_sources(queues: Iterable[Queue], wiring: Wiring, *, once: bool) -> list[Source]:
    """Return the sources from which a worker receives the messages of these queues.

    Raises ImproperlyConfigured where no worker can consume one of them.
    """
    by_kind: dict[type[Queue], list[Queue]] = {}
    for queue in queues:
        by_kind.setdefault(type(queue), []).append(queue)
    return [
        source
        for kind, members in by_kind.items()
        for source in kind.make_sources(members, wiring, once=once)
    ]
