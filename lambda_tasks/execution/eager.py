"""Eager mode: runs a message at once on the caller's thread, and keeps its record as usual."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from ..conf import current
from ..core.lifecycle import Failed
from ..core.message import Outgoing
from ..ports import ClaimedDelivery, Delivery, Granted, Released, Resolve, ResolvedDelivery
from .attempt import MakeAttempt
from .finishing import Finisher, release_claim
from .inline import run_inline
from .run import Run

logger = logging.getLogger("lambda_tasks")

LEASE: Final = timedelta(hours=1)
"""The lease of an eager run. It bounds the lock of a singleton; the run itself has no limit."""


class EagerRunner:
    """An executor without lanes and worker processes, for one message at a time."""

    def __init__(
        self,
        finisher: Finisher,
        resolve: Resolve,
        make_attempt: MakeAttempt,
        find_steps: Callable[[Sequence[Released]], Iterable[Outgoing]],
    ) -> None:
        self._find_steps = find_steps
        self._claims = finisher.claims
        self._finisher = finisher
        self._resolve = resolve
        self._make_attempt = make_attempt
        self._error: BaseException | None = None

    def run(self, outgoing: Outgoing) -> BaseException | None:
        """Run a message, all its retries, and the steps that these release.

        There are no delays and time limits. A lost attempt is repeated at once as well. Returns the
        first error that a task has failed with in the end, if any has.
        """
        waiting = deque([outgoing])
        while waiting:
            following, released = self._run_one(waiting.popleft())
            if following is not None and not following.waits:
                waiting.appendleft(following)
            waiting.extend(self._find_steps(released))
        return self._error

    def _run_one(self, outgoing: Outgoing) -> tuple[Outgoing | None, Sequence[Released]]:
        settings, message = current(), replace(outgoing.message, run_after=None)
        id = message.invocation_id
        task = self._resolve(message.task_name, message.backend)
        delivery = Delivery(id=str(id), source=outgoing.queue, fallback_id=id, message=message)
        resolved = ResolvedDelivery(
            delivery=delivery, message=replace(message, queue=outgoing.queue), task=task
        )
        attempts = settings.max_attempts
        verdict = self._claims.claim([resolved], lease=LEASE, max_attempts=attempts)[id]
        if not isinstance(verdict, Granted):
            logger.info("%s is not run: %s", id, verdict.refusal.name.lower())
            return None, ()
        if message.place is not None:  # with the results that it takes from others
            message = replace(verdict.message, run_after=None)
        claim = verdict.claim
        limit = task.options.max_retries
        run = Run(
            message=message,
            claim=claim,
            queue=outgoing.queue,
            soft_s=float("inf"),
            hard_s=LEASE.total_seconds(),
            max_retries=settings.max_retries if limit is None else limit,
            max_continues=settings.max_continues,
            metadata={"runtime": "eager"},
            retry_at_once=True,
        )
        attempt = self._make_attempt(run, task)
        ended = run_inline(attempt, with_limits=False)
        if isinstance(ended.outcome, Failed):
            self._error = self._error or attempt.error
        claimed = ClaimedDelivery(
            delivery=delivery, message=resolved.message, task=task, claim=claim
        )
        if ended.wait_s is not None:
            release_claim(self._claims, claimed, counts=False, reason="waits for its lock")
            return outgoing, ()
        if ended.lost is None:
            return ended.following, ended.released
        is_last = claim.attempt >= attempts
        goes_on = not self._finisher.finish_lost(claimed, ended.lost, is_last=is_last).is_final
        return (outgoing if goes_on else None), ()
