"""Queues that hand out nothing for a while, because somebody has paused them."""

import logging
from collections.abc import Mapping

from asgiref.sync import sync_to_async

from ..models import QueueState
from ..records import pauses
from ..twins import sync_form
from .checking import known_queue

logger = logging.getLogger("lambda_tasks")


@sync_form("aqueue_states()")
def queue_states() -> Mapping[str, QueueState]:
    """Return who has paused which queue, by its name; a queue that never was is missing."""
    return pauses.queue_states()


async def aqueue_states() -> Mapping[str, QueueState]:
    """See queue_states()."""
    return await sync_to_async(queue_states)()


@sync_form("apause_queue(...)")
def pause_queue(queue: str, *, by: str, reason: str = "") -> bool:
    """Let a queue hand out nothing until resume_queue(); return False if it is paused already.

    From the commit on, no worker and no function begins its calls. They wait in their rows, also
    what SQS or AWS Batch still delivers. What runs goes on. Direct calls run, and so do those whose
    secret arguments are in their messages only.

    Raises InvalidFilter for a queue that is not in LAMBDA_TASKS_QUEUES.
    """
    return _switch(queue, is_paused=True, by=by, reason=reason)


async def apause_queue(queue: str, *, by: str, reason: str = "") -> bool:
    """See pause_queue()."""
    return await sync_to_async(pause_queue)(queue, by=by, reason=reason)


@sync_form("aresume_queue(...)")
def resume_queue(queue: str, *, by: str, reason: str = "") -> bool:
    """Let a paused queue go on; return False if it is not paused.

    Workers of the table go on at once. What waits for SQS or AWS Batch is sent by the relay, from
    its next round on.

    Raises InvalidFilter for a queue that is not in LAMBDA_TASKS_QUEUES.
    """
    return _switch(queue, is_paused=False, by=by, reason=reason)


async def aresume_queue(queue: str, *, by: str, reason: str = "") -> bool:
    """See resume_queue()."""
    return await sync_to_async(resume_queue)(queue, by=by, reason=reason)


def _switch(queue: str, *, is_paused: bool, by: str, reason: str) -> bool:
    name = known_queue(queue)
    if not pauses.switch(name, is_paused=is_paused, by=by, reason=reason):
        return False
    told = "paused" if is_paused else "resumed"
    logger.warning("The queue %r was %s by %s. %s", name, told, by or "nobody", reason)
    return True
