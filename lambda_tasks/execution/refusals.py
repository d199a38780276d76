"""What becomes of deliveries that this release can't run: another release may run them.

Old and new releases run side by side during a deployment. So what one of them can't run waits for
LAMBDA_TASKS_DEPLOYMENT_GRACE, in its row or in its queue, and is FAILED only after that.
"""

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from ..conf import Settings
from ..core.grace import RECEIVE_WAITS, RefusedRecord, failure_of, receive_wait_s
from ..core.lifecycle import LOCKED, Raised, Refusal, Refused, Release
from ..core.limits import LOOK_AGAIN_S
from ..errors import NewerFormat, Unrunnable
from ..logging import run_attributes
from ..ports import (
    DONE,
    DONE_FAILED,
    RETURNED,
    ClaimedDelivery,
    Claims,
    Delivery,
    ResolvedDelivery,
    Settlement,
    UnrunnableDelivery,
)
from .finishing import notify_failed
from .hook_events import announce_failed_unbegun
from .run_log import log_given_up

logger = logging.getLogger("lambda_tasks")


WAITS_FOR_PLACE: Final = "waits for a place"
"""The reason for which an invocation with a limit waits."""

WAITS_FOR_RATE: Final = "waits for its rate"
"""The reason for which an invocation with a rate waits."""

UNRUNNABLE: Final = replace(RETURNED, reason="can't be run by this release")
"""The settlement of a delivery that goes back, for another release."""


class Refusals:
    """The settler of deliveries that this release can't run."""

    def __init__(self, claims: Claims, settings: Callable[[], Settings]) -> None:
        self._claims = claims
        self._settings = settings

    def settle(self, deliveries: Sequence[UnrunnableDelivery]) -> list[Settlement]:
        """Return the settlements of deliveries, in order. Raises the database's errors."""
        verdicts = self._claims.refuse(deliveries)
        return [
            self._settle_one(delivery, verdict)
            for delivery, verdict in zip(deliveries, verdicts, strict=True)
        ]

    def settle_claimed(self, claimed: ClaimedDelivery, reason: Raised) -> Settlement:
        """Release the claim of a delivery whose arguments don't fit, and return its settlement."""
        is_redelivered = claimed.delivery.is_redelivered
        release = Release(counts=False, is_redelivered=is_redelivered, is_refused=True)
        delivery = UnrunnableDelivery(
            delivery=claimed.delivery,
            message=claimed.message,
            reason=reason,
            queue=claimed.queue,
            look=claimed.look,
            carries_call=claimed.carries_call,
            claimed=claimed,
        )
        try:
            self._claims.release([claimed.claim], release)
            return self.settle([delivery])[0]
        except Exception:
            logger.exception("%s can't be refused; it goes back", claimed.message.invocation_id)
            return UNRUNNABLE

    def settle_newer(self, delivery: Delivery, reason: NewerFormat) -> Settlement:
        """Return the settlement of a delivery whose body only a newer release can read.

        It never gets a record, as nobody here knows what the body says.
        """
        wait_s = None
        if delivery.is_redelivered and delivery.receives <= len(RECEIVE_WAITS):
            wait_s = receive_wait_s(delivery.receives, grace_s=self._grace_s, left_s=0.0)
        logger.warning(
            "Delivery %s can't be run by this release: %s It goes back to its queue%s.",
            delivery.id, reason, "" if wait_s is None else f" for {wait_s:.0f} s",
        )  # fmt: skip
        return replace(UNRUNNABLE, retry_after_s=wait_s)

    def _settle_one(
        self, delivery: UnrunnableDelivery, verdict: Refused | RefusedRecord
    ) -> Settlement:
        if isinstance(verdict, RefusedRecord):
            return self._settle_noted(delivery, verdict)
        if verdict.refusal is Refusal.UNKNOWN and not delivery.message.durable:
            return self._settle_unstored(delivery)
        return settle_refused(delivery, verdict)

    def _settle_noted(self, delivery: UnrunnableDelivery, record: RefusedRecord) -> Settlement:
        if record.is_over:
            self._report_failure(delivery)
            return DONE_FAILED
        if delivery.delivery.is_of_table:
            _log_wait(delivery, "It is left to other workers.", is_first=record.is_first)
            left_out = delivery.message.task_name if delivery.claimed is None else delivery.id
            return replace(UNRUNNABLE, left_out=left_out)
        if delivery.waits_in_row:
            next_step = f"It waits in its row for {record.wait_s:.0f} s."
            _log_wait(delivery, next_step, is_first=record.is_first)
            return replace(UNRUNNABLE, is_final=True)
        return self._return_to_queue(delivery, left_s=record.left_s)

    def _settle_unstored(self, delivery: UnrunnableDelivery) -> Settlement:
        """Settle a direct message, which has no record that could say when it was refused first.

        So the number of its receives says how long it has waited, if its age allows that.
        """
        age_s = _age_s(delivery)
        if age_s < 0:
            return settle_refused(delivery, Refused(Refusal.NOT_DUE, -age_s))
        left_s = self._grace_s - age_s
        has_waited = delivery.delivery.receives > len(RECEIVE_WAITS) or not self._grace_s
        if not has_waited or left_s > 0:
            return self._return_to_queue(delivery, left_s=left_s)
        if self._claims.fail_direct(delivery, failure_of(delivery.reason, self._grace_s)):
            self._report_failure(delivery)
            return DONE_FAILED
        logger.error(
            "[%s] %s can't be run, and a record can't keep its arguments without cryptography: it "
            "goes to the dead letters. %s",
            delivery.id, delivery.message.task_name, delivery.reason.traceback,
            extra=run_attributes(delivery.message, None, delivery.queue),
        )  # fmt: skip
        return UNRUNNABLE

    def _return_to_queue(self, delivery: UnrunnableDelivery, *, left_s: float) -> Settlement:
        if not delivery.delivery.is_redelivered:
            _log_wait(delivery, "Its job ends, and AWS Batch repeats it as its definition says.")
            return UNRUNNABLE
        receives = delivery.delivery.receives
        wait_s = receive_wait_s(receives, grace_s=self._grace_s, left_s=left_s)
        _log_wait(delivery, f"It goes back to its queue for {wait_s:.0f} s.")
        return replace(UNRUNNABLE, retry_after_s=wait_s)

    def _report_failure(self, delivery: UnrunnableDelivery) -> None:
        reason = failure_of(delivery.reason, self._grace_s)
        if delivery.claimed is None:
            log_given_up(delivery.message, delivery.queue, reason)
        else:
            notify_failed(delivery.claimed, delivery.claimed.claim, reason)
        announce_failed_unbegun(delivery.message, queue=delivery.queue, reason=reason)

    @property
    def _grace_s(self) -> int:
        return self._settings().deployment_grace


def reason_of(error: BaseException) -> Raised:
    """Return why a message can't be run: there is no such task, or its module fails."""
    if isinstance(error, Unrunnable):
        return Raised.from_error(error, str(error))
    # Without the whole traceback, as every message of the module has this reason.
    *_, last = traceback.extract_tb(error.__traceback__)
    text = (
        f"The module of the task can't be imported: {type(error).__name__}: {error} "
        f"({last.filename}, line {last.lineno})"
    )
    return Raised.from_error(error, text)


def settle_refused(delivery: ResolvedDelivery | UnrunnableDelivery, refused: Refused) -> Settlement:
    """Return the settlement of a delivery whose record can't be claimed."""
    id, task_name = delivery.message.invocation_id, delivery.message.task_name
    state = refused.refusal.name.lower().replace("_", " ")
    extra = run_attributes(delivery.message, None, delivery.queue)
    if refused.refusal is Refusal.FOREIGN:
        logger.error(
            "Delivery %s is refused and goes back to its queue: the record of %s has another task "
            "or other arguments. The message may have been written by someone outside this "
            "project.",
            delivery.delivery.id, id,
        )  # fmt: skip
        return replace(RETURNED, reason=state)
    if refused.refusal is Refusal.FULL:
        return _full(delivery)
    if refused.is_final:
        logger.info(
            "[%s] %s is already %s: its delivery is acknowledged",
            id, task_name, state, extra=extra,
        )  # fmt: skip
        return replace(DONE, leaves_place=_may_leave_place(delivery, refused))
    if refused.refusal is Refusal.PACED:
        state = WAITS_FOR_RATE
    else:
        logger.warning("[%s] %s goes back to its queue: %s", id, task_name, state, extra=extra)
    waits = refused.refusal in (Refusal.HELD, Refusal.NOT_DUE, Refusal.PACED)
    is_postponed = refused.refusal is Refusal.UNREADABLE and delivery.delivery.is_of_table
    return Settlement(
        is_final=False,
        retry_after_s=refused.retry_after_s if waits else None,
        # A locked record may be an INSERT that another transaction has not committed.
        has_record=waits and refused is not LOCKED,
        reason=state,
        left_out=id if is_postponed else None,
    )


def _may_leave_place(delivery: ResolvedDelivery | UnrunnableDelivery, refused: Refused) -> bool:
    """Return whether a place may be kept for an invocation that has expired."""
    has_limit = isinstance(delivery, ResolvedDelivery) and bool(
        delivery.needs_of or delivery.places
    )
    return has_limit and refused.refusal is Refusal.EXPIRED


def _full(delivery: ResolvedDelivery | UnrunnableDelivery) -> Settlement:
    """Return the settlement of a delivery whose invocation waits in its row for a place."""
    if delivery.delivery.is_of_table:
        return Settlement(is_final=False, retry_after_s=LOOK_AGAIN_S, reason=WAITS_FOR_PLACE)
    return replace(DONE, reason=WAITS_FOR_PLACE)


def _log_wait(delivery: UnrunnableDelivery, next_step: str, *, is_first: bool = True) -> None:
    """Log a refusal, the first one of a record as a warning."""
    logger.log(
        logging.WARNING if is_first else logging.INFO,
        "[%s] %s can't be run by this release: %s %s",
        delivery.id, delivery.message.task_name, delivery.reason.traceback, next_step,
        extra=run_attributes(delivery.message, None, delivery.queue),
    )  # fmt: skip


def _age_s(delivery: UnrunnableDelivery) -> float:
    """Return the seconds since a message was due; less than zero before, infinity if unknown."""
    times = [each for each in (delivery.enqueued_at, delivery.message.run_after) if each]
    return (datetime.now(UTC) - max(times)).total_seconds() if times else float("inf")
