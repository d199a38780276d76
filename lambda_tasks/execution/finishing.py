"""The one door for the end of a run: what it has come to is decided and written here.

An attempt calls it within its transaction, the executor for what has no attempt any more. What has
nothing to commit is written together with others, by `write_batcher`.
"""

import logging
import random
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final
from uuid import UUID

from ..core.arguments import to_json_values
from ..core.lifecycle import (
    CUT_OFF,
    Claim,
    Continued,
    End,
    Failed,
    Outcome,
    Raised,
    Release,
    Retried,
    Succeeded,
    cut_off_too_often,
    turn_wait_s,
)
from ..core.message import Message, Outgoing
from ..core.redaction import redact
from ..core.retries import JITTER_S, MAX_DELAY_S, continuation_id, retry_id
from ..errors import Continue, LeaseLost, MaxContinuesExceededError, MaxRetriesExceededError
from ..ports import (
    DONE,
    RETURNED,
    ClaimedDelivery,
    Claims,
    ResolvedDelivery,
    Settlement,
    Task,
    TaskCall,
)
from .progress import checked_state
from .run import Ended, Run

logger = logging.getLogger("lambda_tasks")

PACKAGE: Final = str(Path(__file__).parents[1])


class Finisher:
    """Writes the ends of runs to their records."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims

    def finish(
        self,
        run: Run,
        outcome: Outcome,
        *,
        ran_for: timedelta | None,
        following: Outgoing | None = None,
    ) -> None:
        """Write what a run has come to, and the record of what follows it. Raises LeaseLost."""
        self.claims.finish(End(run.claim, outcome, ran_for), following)

    def fail(
        self,
        run: Run,
        task: Task,
        call: TaskCall,
        error: BaseException,
        ran_for: timedelta | None,
        *,
        may_retry: bool = True,
    ) -> Ended:
        """Write what follows from an error, outside of the task's transaction, which is over.

        Raises what the database raises: then nothing is known, and the delivery must come back.
        """
        if isinstance(error, LeaseLost):
            return Ended(None)
        outcome, retry = consequence_of(error, run, call, may_retry=may_retry)
        try:
            self.finish(run, outcome, ran_for=ran_for, following=retry)
        except LeaseLost:
            # Also where the commit went through and only its answer, or a hook after it, failed.
            logger.error(
                "%s (%s) had an error after its record was closed:\n%s",
                task.name, run.message.invocation_id, described(error, run.message).traceback,
            )  # fmt: skip
            return Ended(None)
        call.ended(outcome, error)
        return Ended(outcome, retry)

    def let_go(self, claimed: ClaimedDelivery, reason: Raised, *, is_last: bool) -> Settlement:
        """End an attempt that the database has failed, by the task's `on_lost`.

        The last that an invocation may have ends it, too.
        """
        _tell_lost(claimed, reason)
        if claimed.may_rerun and not is_last:
            return give_back(self.claims, claimed, counts=True)
        return self._finish_lost(claimed, reason)

    def cut_off(
        self, claimed: ClaimedDelivery, *, counts: bool, ran_s: float, hard_s: float
    ) -> Settlement:
        """End an attempt that the end of its place interrupts: a deadline, a worker's drain.

        Its token is void then, so that it can't commit. It goes back, unless it must not run again
        or was cut off so too often. See Release.
        """
        _tell_lost(claimed, CUT_OFF)
        if not claimed.may_rerun:
            return self._finish_lost(claimed, CUT_OFF)
        if reason := cut_off_too_often(claimed.claim.cut_off_s + ran_s, hard_s):
            return self._finish_lost(claimed, reason)
        wait_s = turn_wait_s(claimed.claim.n_waits)
        return give_back(self.claims, claimed, counts=counts, wait_s=wait_s, ran_s=ran_s)

    def _finish_lost(self, claimed: ClaimedDelivery, reason: Raised) -> Settlement:
        try:
            self.claims.finish(End(claimed.claim, Failed(reason)))
        except Exception:
            logger.exception("%s comes back when its lease is over", claimed.message.invocation_id)
            return RETURNED
        tell_end(claimed, claimed.claim, reason)
        return DONE


def tell_end(resolved: ResolvedDelivery, claim: Claim, reason: Raised) -> None:
    """Tell who listens to a task that it has failed for good, in an attempt that could not."""
    try:
        resolved.task.make_call(resolved.message, claim).ended(Failed(reason), None)
    except Exception:
        logger.exception("%s has failed, and nobody was told", resolved.message.invocation_id)


def _tell_lost(claimed: ClaimedDelivery, reason: Raised) -> None:
    logger.error(
        "%s %s has lost its attempt: %s",
        claimed.task.name, claimed.message.invocation_id, reason.traceback,
    )  # fmt: skip


def give_back(
    claims: Claims,
    claimed: ClaimedDelivery,
    *,
    counts: bool,
    wait_s: float = 0.0,
    ran_s: float = 0.0,
) -> Settlement:
    """Let another delivery run what was claimed. See Release."""
    is_redelivered = claimed.delivery.is_redelivered
    release = Release(counts=counts, is_redelivered=is_redelivered, wait_s=wait_s, ran_s=ran_s)
    return _released(claims, [claimed], release)


def give_back_unbegun(
    claims: Claims, unbegun: Sequence[ClaimedDelivery]
) -> list[tuple[ClaimedDelivery, Settlement]]:
    """Let other deliveries run what has not begun here; they wait the longer the more often they
    have waited."""
    alike: defaultdict[Release, list[ClaimedDelivery]] = defaultdict(list)
    for each in unbegun:
        wait_s = turn_wait_s(each.claim.n_waits)
        release = Release(counts=False, is_redelivered=each.delivery.is_redelivered, wait_s=wait_s)
        alike[release].append(each)
    settled: list[tuple[ClaimedDelivery, Settlement]] = []
    for release, group in alike.items():
        settlement = _released(claims, group, release)
        settled += [(each, settlement) for each in group]
    return settled


def _released(claims: Claims, claimed: Sequence[ClaimedDelivery], release: Release) -> Settlement:
    try:
        claims.release([each.claim for each in claimed], release)
    except Exception:
        ids = ", ".join(str(each.message.invocation_id) for each in claimed)
        logger.exception("What has not ended comes back when its lease is over: %s", ids)
        return RETURNED
    return Settlement(is_final=False, retry_after_s=release.wait_s)


def outcome_of(value: object, task: Task) -> Succeeded:
    """What a returned value makes of a run. Raises TypeError for one that is no JSON."""
    return Succeeded(to_json_values(value, what=f"the result of {task.name}"))


def continuation_of(request: Continue, run: Run, task: Task) -> tuple[Continued, Outgoing]:
    """What a Continue makes of a run, and the message of the next one.

    Raises TypeError and ValueError for a state that can't be kept, MaxContinuesExceededError.
    """
    state = checked_state(request.state, task_name=task.name)
    n_continues = run.message.n_continues
    if n_continues >= run.max_continues:
        raise MaxContinuesExceededError(task_name=task.name, n_continues=n_continues)
    delay_s = 0.0 if run.retry_at_once else request.delay
    next_id = continuation_id(run.message.invocation_id, run.claim.token)
    next_run = _following(run, next_id, delay_s=delay_s, n_continues=n_continues + 1)
    return Continued(state), next_run


def consequence_of(
    error: BaseException, run: Run, call: TaskCall, *, may_retry: bool = True
) -> tuple[Outcome, Outgoing | None]:
    """What an error makes of a run, and the message of its retry."""
    n_retries = run.message.n_retries
    raised = described(error, run.message)
    if call.ignores(error):
        return Succeeded(raised=raised), None
    jitter_s = random.uniform(*JITTER_S)
    delay_s = call.retry_delay_s(error, jitter_s=jitter_s) if may_retry else None
    if delay_s is None:
        return Failed(raised), None
    if n_retries >= run.max_retries:
        limit = MaxRetriesExceededError(task_name=run.message.task_name, n_retries=n_retries)
        return Failed(replace(raised, traceback=f"{raised.traceback}\n{_format(limit)}")), None
    if run.retry_at_once:
        delay_s = 0.0
    next_id = retry_id(run.message.invocation_id, run.claim.token)
    retry = _following(
        run, next_id, delay_s=delay_s, n_retries=n_retries + 1, n_continues=run.message.n_continues
    )
    return Retried(raised, timedelta(seconds=delay_s)), retry


def described(error: BaseException, message: Message) -> Raised:
    """What was raised, without the message's secrets."""
    return Raised.by(error, redact(_format(error), message.secret_kwargs.values()))


def _following(
    run: Run, id: UUID, *, delay_s: float, n_retries: int = 0, n_continues: int
) -> Outgoing:
    """The message of the invocation that follows a run."""
    message = run.message
    following = replace(
        message,
        invocation_id=id,
        n_retries=n_retries,
        n_continues=n_continues,
        durable=True,
        run_after=_moment_after(delay_s),
        root_id=message.root_id or message.invocation_id,
        retry_of=message.invocation_id,
    )
    return Outgoing(
        following,
        following.encode(),
        run.queue,
        min(round(delay_s), MAX_DELAY_S),
        look=run.look,
        waits=run.look.waits(delay_s),
        is_follow_up=True,
    )


def _moment_after(delay_s: float) -> datetime | None:
    """When a delay is over that is longer than a queue's own can be."""
    return datetime.now(UTC) + timedelta(seconds=delay_s) if delay_s > MAX_DELAY_S else None


def _format(error: BaseException) -> str:
    """The traceback from the task's own code on."""
    return "".join(traceback.format_exception(type(error), error, _from_the_task(error)))


def _from_the_task(error: BaseException) -> TracebackType | None:
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename.startswith(PACKAGE):
        step = step.tb_next
    return step or error.__traceback__
