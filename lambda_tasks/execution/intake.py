"""The first half of a batch: read what has arrived, and claim what may run. Synchronous."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

from django.db import DatabaseError

from ..conf import Settings
from ..core.lifecycle import LOCKED, WORKER_DIED, Claim, Refusal, Refused, outage_wait_s
from ..core.message import decode
from ..core.signature import verify
from ..database_errors import is_conflict
from ..errors import MessageRefused
from ..logging import task_logger
from ..ports import (
    BACK,
    DONE,
    Arriving,
    ClaimedDelivery,
    Claims,
    Delivery,
    Resolve,
    ResolvedDelivery,
    Settlement,
)
from . import connections as kept_connections
from .batch import ClaimedBatch, blocked_by_order
from .finishing import give_back, tell_end
from .time_budget import TimeBudget, limits_s
from .turns import Turns

logger = logging.getLogger("lambda_tasks")

Settlements = dict[str, Settlement]

AT_ONCE: Final = Settlement(is_final=False, retry_after_s=0.0)
"""It goes back, and may come again at once."""


class Intake:
    """What is refused is told why, and takes no neighbour along."""

    def __init__(
        self, claims: Claims, settings: Callable[[], Settings], resolve: Resolve, turns: Turns
    ) -> None:
        self._claims = claims
        self._settings = settings
        self._resolve = resolve
        self._turns = turns

    def claim_batch(self, arriving: Arriving, budget: TimeBudget) -> ClaimedBatch:
        """What is refused, and what is claimed. `arriving` is open until all is claimed."""
        kept_connections.refresh()
        refused: Settlements = {}
        deliveries: Sequence[Delivery] = ()
        resolved: Sequence[ResolvedDelivery] = ()
        try:
            with arriving as deliveries:
                resolved = self._resolve_all(deliveries, refused)
                claimed = self._claim(resolved, refused, budget) if resolved else []
        except DatabaseError as error:
            if not deliveries or not is_conflict(error):
                raise
            # Met at the end of their transaction, and so nothing is claimed.
            logger.info("%d messages could not be claimed for now: %s", len(deliveries), error)
            return ClaimedBatch(budget, {each.id: AT_ONCE for each in deliveries})
        postponed = [
            (each, settlement)
            for each in resolved
            if (settlement := refused.get(each.delivery.id)) is not None
            # A durable message has its record; a direct one may not have it yet.
            and (each.message.durable or settlement.has_record)
        ]
        blocked = blocked_by_order(deliveries, refused)
        if not blocked:
            return ClaimedBatch(budget, refused, claimed, postponed)
        for each in claimed:
            if each.delivery.id in blocked:
                refused[each.delivery.id] = give_back(self._claims, each, counts=False)
        runnable = [each for each in claimed if each.delivery.id not in blocked]
        return ClaimedBatch(budget, refused, runnable, postponed)

    def _resolve_all(
        self, deliveries: Sequence[Delivery], refused: Settlements
    ) -> list[ResolvedDelivery]:
        resolved: list[ResolvedDelivery] = []
        for delivery in deliveries:
            try:
                resolved.append(self._resolve_one(delivery))
            except MessageRefused as reason:
                logger.error("%s is not run and goes back to its queue: %s", delivery.id, reason)
                refused[delivery.id] = BACK
            except Exception:
                logger.exception("%s goes back to its queue: its task's module fails", delivery.id)
                refused[delivery.id] = BACK
        return resolved

    def _resolve_one(self, delivery: Delivery) -> ResolvedDelivery:
        message = delivery.message
        if message is None:
            keys = self._settings().signing_keys
            body = verify(delivery.body, keys=keys, queue=delivery.queue)
            message = decode(body, fallback_id=delivery.fallback_id)
        task = self._resolve(message.task_name, message.backend)
        message = replace(message, secret=task.secret_names)
        look = self._settings().look_terms(message.queue or task.options.queue)
        return ResolvedDelivery(delivery=delivery, message=message, task=task, look=look)

    def _claim(
        self, resolved: Sequence[ResolvedDelivery], refused: Settlements, budget: TimeBudget
    ) -> list[ClaimedDelivery]:
        settings = self._settings()
        try:
            verdicts = self._claims.claim(
                resolved,
                lease=budget.lease([each.task for each in resolved], settings),
                max_attempts=settings.max_attempts,
                waiting=self._turns.waiting(resolved),
                # But one that has a whole function for itself.
                suspects_wait=budget.deadline is None or len(resolved) > 1,
            )
        except Exception as error:
            if is_conflict(error):
                logger.info("%d messages could not be claimed for now: %s", len(resolved), error)
                refused.update((each.delivery.id, AT_ONCE) for each in resolved)
                return []
            if len(resolved) > 1 and not isinstance(error, kept_connections.OUTAGES):
                # What the database refuses of one message must not hold up its neighbours.
                alone = [self._claim([each], refused, budget) for each in resolved]
                return [claimed for each in alone for claimed in each]
            logger.exception("%d messages could not be claimed and go back", len(resolved))
            refused.update((each.delivery.id, _unclaimed(each, error)) for each in resolved)
            return []
        return self._granted(resolved, verdicts, refused)

    def _granted(
        self,
        resolved: Sequence[ResolvedDelivery],
        verdicts: Mapping[UUID, Claim | Refused],
        refused: Settlements,
    ) -> list[ClaimedDelivery]:
        granted: dict[UUID, ClaimedDelivery] = {}
        for each in resolved:
            id = each.message.invocation_id
            verdict = verdicts[id]
            if isinstance(verdict, Claim) and id in granted:
                # Twice in one batch: the second comes back and finds it finished.
                verdict = Refused(Refusal.HELD, limits_s(each.task, self._settings())[1])
            if isinstance(verdict, Claim):
                granted[id] = ClaimedDelivery(
                    delivery=each.delivery,
                    message=each.message,
                    task=each.task,
                    look=each.look,
                    claim=verdict,
                )
            else:
                refused[each.delivery.id] = _settle_refused(each, verdict)
        for id, each in {each.message.invocation_id: each for each in resolved}.items():
            verdict = verdicts[id]
            if isinstance(verdict, Refused) and verdict.ended is not None:
                tell_end(each, verdict.ended, WORKER_DIED)
        return list(granted.values())


def _unclaimed(resolved: ResolvedDelivery, error: Exception) -> Settlement:
    if not isinstance(error, kept_connections.OUTAGES):
        return BACK
    delivery = resolved.delivery
    is_copied = resolved.message.durable and delivery.may_be_copied
    wait_s = outage_wait_s(delivery.receives, is_copied=is_copied)
    return Settlement(is_final=False, retry_after_s=wait_s, is_outage=True)


def _settle_refused(resolved: ResolvedDelivery, refused: Refused) -> Settlement:
    if refused.is_final:
        task_logger.info(
            "%s %s is %s already: its delivery is done with",
            resolved.task.name, resolved.message.invocation_id, refused.refusal.name.lower(),
        )  # fmt: skip
        return DONE
    logger.warning(
        "%s %s goes back to its queue: %s",
        resolved.task.name, resolved.message.invocation_id, refused.refusal.name.lower(),
    )  # fmt: skip
    waits = refused.refusal in (Refusal.HELD, Refusal.NOT_DUE)
    return Settlement(
        is_final=False,
        retry_after_s=refused.retry_after_s if waits else None,
        # What is locked may be no more than another's INSERT that is not committed.
        has_record=waits and refused is not LOCKED,
    )
