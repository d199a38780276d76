"""Eager mode: a message is run at once, on the caller's thread, with its record as ever."""

import logging
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from ..conf import current
from ..core.lifecycle import Claim
from ..core.message import Outgoing
from ..ports import ClaimRequest
from ..registry import resolve
from .attempt import Run
from .inline import run_inline

if TYPE_CHECKING:
    from ..runtime import Runtime

logger = logging.getLogger("lambda_tasks")

LEASE: Final = timedelta(hours=1)


def run_eagerly(outgoing: Outgoing, runtime: "Runtime") -> None:
    """Run a message, and its retries after it, without delays and time limits."""
    waiting = deque([outgoing])
    while waiting:
        retry = _run_one(waiting.popleft(), runtime)
        if retry is not None:
            waiting.append(retry)


def _run_one(outgoing: Outgoing, runtime: "Runtime") -> Outgoing | None:
    settings, message = current(), outgoing.message
    request = ClaimRequest(message=message, queue=outgoing.queue)
    claim = runtime.store.claim([request], lease=LEASE, max_attempts=settings.max_attempts)[
        message.invocation_id
    ]
    if not isinstance(claim, Claim):
        logger.info("%s is not run: %s", message.invocation_id, claim.refusal.name.lower())
        return None
    limit = resolve(message.task_name).options.max_retries
    run = Run(
        message=message,
        claim=claim,
        queue=outgoing.queue,
        soft_s=float("inf"),
        hard_s=LEASE.total_seconds(),
        max_retries=settings.max_retries if limit is None else limit,
        retry_at_once=True,
    )
    attempt, context = runtime.attempt(run, metadata={"place": "eager"})
    ended = run_inline(attempt, context, with_limits=False)
    return ended.retry
