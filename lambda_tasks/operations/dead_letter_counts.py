"""How many dead letters each queue has, for pages, which must not wait for SQS each time."""

import asyncio
import logging
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .. import runtime
from ..queues.aws.errors import RequestFailed
from ..queues.dead_letters import DeadLetterQueue
from ..queues.sqs import SQSQueue
from .asking import sqs_queues

logger = logging.getLogger("lambda_tasks")

KEPT_S: Final = 60.0
"""Seconds after which dead letters are counted anew: pages ask again each few seconds."""

COUNT_LIMIT_S: Final = 10.0
"""Seconds in which a queue has to tell."""


class _Last:
    """What was counted last in this process."""

    counts: Mapping[str, int] = MappingProxyType({})
    at_s: float | None = None
    """When it was begun, by `time.monotonic()`; None for never."""
    counting: asyncio.Task[None] | None = None
    """The last count. Its loop keeps no reference to it."""


def dead_letter_counts(*, wait_s: float = 1.0) -> Mapping[str, int]:
    """Return about how many dead letters each SQS queue has; one that nobody tells of is missing.

    Only the first call in a process waits, for `wait_s` seconds at most. Later ones return what was
    counted last, and if that is a minute old, have it counted anew meanwhile.
    """
    queues, now_s, last_s = sqs_queues(None), time.monotonic(), _Last.at_s
    if queues and (last_s is None or now_s - last_s > KEPT_S):
        _Last.at_s = now_s
        runtime.current().portal.call(_begin, queues, wait_s if last_s is None else 0)
    return {name: n for name, n in _Last.counts.items() if name in queues}


async def _begin(queues: Mapping[str, SQSQueue], wait_s: float) -> None:
    _Last.counting = asyncio.ensure_future(_count_all(queues))
    await asyncio.wait([_Last.counting], timeout=wait_s)


async def _count_all(queues: Mapping[str, SQSQueue]) -> None:
    counts = await asyncio.gather(*map(_count, queues.values()))
    _Last.counts = {name: n for name, n in zip(queues, counts, strict=True) if n is not None}


async def _count(queue: SQSQueue) -> int | None:
    """Return how many dead letters a queue has; None where nobody tells in time."""
    try:
        async with asyncio.timeout(COUNT_LIMIT_S):
            letters = await DeadLetterQueue.find(queue, runtime.current())
            found = None if letters is None else await letters.count()
    except Exception as error:
        told = str(error) if isinstance(error, RequestFailed) else repr(error)
        logger.warning("The dead letters of %r could not be counted: %s", queue.name, told)
        return None
    return 0 if found is None else found["visible"] + found["in_flight"]
