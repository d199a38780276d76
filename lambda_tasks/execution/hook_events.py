"""The events of runs and deliveries that hooks get, and their calls beside the engine."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from .. import hooks
from ..core.arguments import copy_json
from ..core.lifecycle import (
    Claim,
    Continued,
    Failed,
    Outcome,
    Raised,
    Retried,
    Skipped,
    Succeeded,
)
from ..core.message import Message, Outgoing
from ..errors import TaskFailed
from ..hooks.beside import call_beside
from ..ports import (
    RETURNED,
    ClaimedDelivery,
    Delivery,
    ResolvedDelivery,
    Settlement,
    UnrunnableDelivery,
)
from .batch import ClaimedBatch
from .run import AttemptEnd

ENDINGS: Final[Mapping[type[Outcome], hooks.Ending]] = {
    Succeeded: "succeeded",
    Failed: "failed",
    Retried: "retried",
    Continued: "continued",
}


def start_event(
    message: Message, claim: Claim, *, queue: str, metadata: Mapping[str, Any]
) -> hooks.Started:
    """Return the event of an attempt that starts."""
    return hooks.Started(**_of_attempt(message, claim, queue, metadata))


def end_event(
    message: Message,
    claim: Claim,
    *,
    queue: str,
    metadata: Mapping[str, Any],
    outcome: Outcome | None,
    error: BaseException | None = None,
    raised: Raised | None = None,
    following: Outgoing | None = None,
    ran_s: float | None = None,
) -> hooks.Ended:
    """Return the event of an attempt that has ended.

    Without an outcome it was lost, for the reason `raised` if that is known.
    """
    raised = raised if outcome is None else outcome.raised
    if raised is not None and (error is None or message.secret):
        error = TaskFailed(raised.traceback)
    return hooks.Ended(
        **_of_attempt(message, claim, queue, metadata),
        outcome="lost" if outcome is None else ENDINGS[type(outcome)],
        error=error,
        traceback=None if raised is None else raised.traceback,
        ran_s=ran_s,
        next_id=None if following is None else following.message.invocation_id,
    )


def announce_end(
    claimed: ClaimedDelivery,
    outcome: Outcome | None,
    *,
    raised: Raised | None = None,
    error: BaseException | None = None,
    following: Outgoing | None = None,
) -> None:
    """Have hooks.ended called beside, for an attempt that could not end by itself."""
    if hooks.ended:
        event = end_event(
            claimed.message,
            claimed.claim,
            queue=claimed.queue,
            metadata={},
            outcome=outcome,
            error=error,
            raised=raised,
            following=following,
        )
        call_beside(hooks.ended, event)


def announce_failed_unbegun(message: Message, *, queue: str, reason: Raised) -> None:
    """Have hooks.failed_unbegun called beside, for an invocation that fails without a run."""
    if hooks.failed_unbegun:
        event = hooks.FailedUnbegun(**_of_invocation(message, queue), reason=reason.traceback)
        call_beside(hooks.failed_unbegun, event)


def announce_skipped(message: Message, *, queue: str) -> None:
    """Have hooks.cancelled called beside, for a run that its schedule skips."""
    if hooks.cancelled:
        call_beside(hooks.cancelled, hooks.Cancelled(**_of_invocation(message, queue)))


def announce_return(
    delivery: Delivery,
    readable: ResolvedDelivery | UnrunnableDelivery | None,
    settlement: Settlement,
) -> None:
    """Have hooks.given_back called beside; `readable` is None for an unreadable message."""
    if hooks.given_back:
        event = hooks.GivenBack(
            delivery_id=delivery.id,
            source=delivery.source,
            reason=settlement.reason,
            retry_after_s=settlement.retry_after_s,
            task_name=None if readable is None else readable.message.task_name,
            invocation_id=None if readable is None else readable.message.invocation_id,
        )
        call_beside(hooks.given_back, event)


def announce_batch(batch: ClaimedBatch, settlements: Mapping[str, Settlement]) -> None:
    """Have hooks.batch_ended called beside, for a batch with these settlements."""
    if hooks.batch_ended:
        runs = [_run_of(id, batch, settlements.get(id, RETURNED)) for id in batch.started]
        event = hooks.BatchEnded(
            runs=tuple(each for each in runs if each is not None),
            n_given_back=_count_returns(batch, settlements),
        )
        call_beside(hooks.batch_ended, event)


def _run_of(id: str, batch: ClaimedBatch, settlement: Settlement) -> hooks.BatchRun | None:
    """Return the run of a delivery; None if it did not begin after all."""
    claimed, ended = batch.started[id].claimed, batch.ends.get(id, AttemptEnd(None))
    if ended.wait_s is not None or ended.refused is not None or isinstance(ended.outcome, Skipped):
        return None
    outcome: hooks.Ending = "failed" if settlement.has_failed else "lost"
    return hooks.BatchRun(
        task_name=claimed.message.task_name,
        invocation_id=claimed.message.invocation_id,
        queue=claimed.queue,
        attempt=claimed.claim.attempt,
        outcome=outcome if ended.outcome is None else ENDINGS[type(ended.outcome)],
        waited_s=_waited_s(claimed),
        ran_s=None if ended.ran_for is None else ended.ran_for.total_seconds(),
    )


def _waited_s(claimed: ClaimedDelivery) -> float | None:
    """Return the seconds from when a call was due to its start, by the database's clock."""
    started_at, due = claimed.claim.started_at, claimed.claim.enqueued_at or claimed.enqueued_at
    if started_at is None or due is None:
        return None
    if claimed.message.run_after is not None:
        due = max(due, claimed.message.run_after)
    return max((started_at - due).total_seconds(), 0.0)


def _count_returns(batch: ClaimedBatch, settlements: Mapping[str, Settlement]) -> Mapping[str, int]:
    queues = {each.delivery.id: each.queue for each in batch.readable}
    return Counter(queues.get(id, "") for id, each in settlements.items() if not each.is_final)


def _of_attempt(
    message: Message, claim: Claim, queue: str, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    place = message.place
    return {
        **_of_invocation(message, queue),
        "workflow_id": None if place is None else place.workflow_id,
        "step": None if place is None else place.step,
        "root_id": message.root_id or message.invocation_id,
        "attempt": claim.attempt,
        "n_retries": message.n_retries,
        "metadata": metadata,
        "started_at": claim.started_at,
        "enqueued_at": claim.enqueued_at,
    }


def _of_invocation(message: Message, queue: str) -> dict[str, Any]:
    return {
        "task_name": message.task_name,
        "invocation_id": message.invocation_id,
        "queue": queue,
        # A copy: what a hook changes in it must not reach the retry.
        "headers": copy_json(message.headers),
    }
