"""The first half of a batch: it reads deliveries and claims those that may run. Synchronous."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Final
from uuid import UUID

from django.db import Error

from .. import pools
from ..conf import Settings
from ..core.lifecycle import WORKER_DIED, Refusal, Refused, outage_wait_s
from ..core.message import Message, decode
from ..core.signature import verify
from ..database_errors import is_conflict
from ..errors import MessageRefused, NewerFormat, NotMigrated, UnknownTask
from ..logging import log_error
from ..ports import (
    RETURNED,
    Admitted,
    ClaimedDelivery,
    Claims,
    Delivery,
    FoundLost,
    Granted,
    Limits,
    Lock,
    ReceivedBatch,
    Resolve,
    ResolvedDelivery,
    Settlement,
    Task,
    UnrunnableDelivery,
)
from . import connections as kept_connections
from .batch import ClaimedBatch, blocked_by_order
from .finishing import notify_failed, release_claim, release_unstarted
from .hook_events import announce_failed_unbegun
from .needs import needs_of
from .refusals import Refusals, reason_of, settle_refused
from .time_budget import TimeBudget, limits_s
from .turns import Turns

logger = logging.getLogger("lambda_tasks")

Settlements = dict[str, Settlement]

UNAVAILABLE: Final = (*kept_connections.OUTAGES, NotMigrated)
"""The errors of a database in which nothing can be claimed, for now."""

RETRY_AT_ONCE: Final = Settlement(is_final=False, retry_after_s=0.0, reason="conflict")
"""The settlement of a delivery that goes back and may be received again at once."""


class Intake:
    """The reader and claimer of deliveries.

    A refused delivery is logged with the reason. It does not affect the others of its batch.
    """

    def __init__(
        self,
        claims: Claims,
        settings: Callable[[], Settings],
        resolve: Resolve,
        turns: Turns,
        *,
        limits: Limits,
        lock: Lock,
    ) -> None:
        self._claims = claims
        self._limits = limits
        self._lock = lock
        self._refusals = Refusals(claims, settings)
        self._settings = settings
        self._resolve = resolve
        self._turns = turns

    def claim_batch(self, arriving: ReceivedBatch, budget: TimeBudget) -> ClaimedBatch:
        """Read and claim a batch of deliveries.

        The context `arriving` stays open until all are claimed: it may hold locks on their rows.
        """
        kept_connections.refresh()
        pools.forget_statements()
        refused: Settlements = {}
        deliveries: Sequence[Delivery] = ()
        resolved: Sequence[ResolvedDelivery] = ()
        unrunnable: Sequence[UnrunnableDelivery] = ()
        admitted: Sequence[ResolvedDelivery] = ()
        staying: Sequence[ResolvedDelivery] = ()
        claimed: list[ClaimedDelivery] = []
        try:
            with arriving as deliveries:
                resolved, unrunnable = self._resolve_all(deliveries, refused)
                admitted = self._admit(resolved, refused)
                admitted, staying = self._turns.starting_soon(admitted)
                if unrunnable:
                    self._refuse(unrunnable, refused)
                claimed = self._claim(admitted, refused, budget) if admitted else []
        except Error as error:
            if not deliveries or not is_conflict(error):
                # The commit may have taken effect though its answer is lost: else the claims
                # would hold for as long as their leases, and nobody knows of them.
                release_unstarted(self._claims, claimed)
                raise
            # The conflict came at the commit of the transaction of `arriving`: nothing is claimed.
            logger.info("%d messages could not be claimed for now: %s", len(deliveries), error)
            again = {each.id: RETRY_AT_ONCE for each in deliveries}
            return ClaimedBatch(budget, again, deliveries=deliveries)
        readable: list[ResolvedDelivery | UnrunnableDelivery] = [*resolved, *unrunnable]
        postponed = [
            (each, settlement)
            for each in resolved
            if (settlement := refused.get(each.delivery.id)) is not None
            # A durable message has its record. A direct message that can't be claimed during an
            # outage needs none: its copy carries the whole call.
            and (each.message.durable or settlement.has_record or settlement.is_outage)
        ]
        return ClaimedBatch(
            budget,
            refused,
            self._without_blocked(claimed, deliveries, refused),
            postponed,
            deliveries=deliveries,
            readable=readable,
            staying=staying,
        )

    def _without_blocked(
        self,
        claimed: Sequence[ClaimedDelivery],
        deliveries: Sequence[Delivery],
        refused: Settlements,
    ) -> Sequence[ClaimedDelivery]:
        """Release what would overtake an earlier one of its group; return the others."""
        blocked = blocked_by_order(deliveries, refused)
        if not blocked:
            return claimed
        for each in claimed:
            if each.delivery.id in blocked:
                refused[each.delivery.id] = release_claim(
                    self._claims, each, counts=False, reason="behind another of its group"
                )
        return [each for each in claimed if each.delivery.id not in blocked]

    def _resolve_all(
        self, deliveries: Sequence[Delivery], refused: Settlements
    ) -> tuple[list[ResolvedDelivery], list[UnrunnableDelivery]]:
        """Return the deliveries with their tasks, and those that this release can't run."""
        resolved: list[ResolvedDelivery] = []
        unrunnable: list[UnrunnableDelivery] = []
        not_loaded: list[tuple[Delivery, Message]] = []
        resolve = cache(self._resolve)  # most deliveries of a batch are for a few tasks
        for delivery in deliveries:
            try:
                read, message = self._read(delivery)
                is_record = delivery.message is not None
                try:
                    task = resolve(message.task_name, message.backend, may_import=is_record)
                    resolved.append(self._resolved(read, message, task))
                except MessageRefused:
                    raise
                except (Exception, SystemExit) as error:
                    if isinstance(error, UnknownTask) and message.durable and not is_record:
                        not_loaded.append((read, message))
                    else:
                        unrunnable.append(self._unrunnable(read, message, error))
            except Exception as error:
                refused[delivery.id] = self._settle_unreadable(delivery, error)
        if not_loaded:
            resolved += self._resolve_recorded(not_loaded, refused, unrunnable)
            order = {delivery.id: number for number, delivery in enumerate(deliveries)}
            resolved.sort(key=lambda each: order[each.delivery.id])
        return resolved, unrunnable

    def _resolve_recorded(
        self,
        not_loaded: Sequence[tuple[Delivery, Message]],
        refused: Settlements,
        unrunnable: list[UnrunnableDelivery],
    ) -> list[ResolvedDelivery]:
        """Resolve messages whose tasks are not loaded, if their records name the same tasks.

        A module is imported only if a record names it, never because a message does.
        """
        try:
            names = self._claims.task_names({message.invocation_id for _, message in not_loaded})
        except Exception as error:
            log_error(
                logger,
                error,
                "The records of %d messages can't be read; they go back",
                len(not_loaded),
            )
            refused.update(
                (each.id, _settle_unclaimed(each, message, error)) for each, message in not_loaded
            )
            return []
        resolved: list[ResolvedDelivery] = []
        for delivery, message in not_loaded:
            is_recorded = names.get(message.invocation_id) == message.task_name
            try:
                task = self._resolve(message.task_name, message.backend, may_import=is_recorded)
                resolved.append(self._resolved(delivery, message, task))
            except (Exception, SystemExit) as error:
                unrunnable.append(self._unrunnable(delivery, message, error))
        return resolved

    def _settle_unreadable(self, delivery: Delivery, reason: Exception) -> Settlement:
        """Return the settlement of a delivery that can't be read: it goes back to its queue."""
        if isinstance(reason, NewerFormat):
            return self._refusals.settle_newer(delivery, reason)
        if isinstance(reason, MessageRefused):
            logger.error(
                "Delivery %s is refused and goes back to its queue: %s", delivery.id, reason
            )
            return replace(RETURNED, reason="refused")
        logger.error(
            "Delivery %s can't be read and goes back to its queue", delivery.id, exc_info=reason
        )
        return replace(RETURNED, reason="can't be read")

    def _unrunnable(
        self, delivery: Delivery, message: Message, error: BaseException
    ) -> UnrunnableDelivery:
        """Return a delivery that this release can't run because of this error."""
        queue = message.queue or "default"
        if delivery.message is None:
            fed = self._settings().queues_fed_by(delivery.source)
            queue = queue if queue in fed else next(iter(fed), queue)
            # Nobody here knows which of them are secret.
            message = replace(message, secret=frozenset(message.kwargs))
        return UnrunnableDelivery(
            delivery=delivery,
            message=message,
            reason=reason_of(error),
            queue=queue,
            look=self._settings().look_terms(queue),
            carries_call=message.has_arguments,
        )

    def _refuse(self, unrunnable: Sequence[UnrunnableDelivery], refused: Settlements) -> None:
        """Settle the deliveries that this release can't run."""
        try:
            settlements = self._refusals.settle(unrunnable)
        except Exception as error:
            logger.exception("%d messages can't be refused; they go back", len(unrunnable))
            settlements = [
                _settle_unclaimed(each.delivery, each.message, error) for each in unrunnable
            ]
        refused.update(
            (each.delivery.id, settlement)
            for each, settlement in zip(unrunnable, settlements, strict=True)
        )

    def _read(self, delivery: Delivery) -> tuple[Delivery, Message]:
        """Return a delivery without its signature, and its message. Raises MessageRefused."""
        if delivery.message is not None:
            return delivery, delivery.message
        settings = self._settings()
        queues = settings.queues_fed_by(delivery.source)
        if not queues:
            raise MessageRefused(
                f"It came from {delivery.source!r}, which is not a queue of LAMBDA_TASKS_QUEUES. "
                "Name the queue's URL there, or disconnect the queue from this function."
            )
        audiences = list(dict.fromkeys(each.audience for each in queues.values()))
        body = self._verify(delivery, audiences)
        if body is not delivery.body:
            delivery = replace(delivery, body=body)
        return delivery, decode(body, fallback_id=delivery.fallback_id)

    def _verify(self, delivery: Delivery, audiences: Sequence[str]) -> object:
        """Return the body without its signature.

        Raises MessageRefused if the signature is valid for none of the audiences.
        """
        # The settings may name a queue by several URLs, and not every URL contains the region.
        check = partial(verify, delivery.body, keys=self._settings().signing_keys, now=time.time())
        *others, last = audiences
        for audience in others:
            with suppress(MessageRefused):
                return check(audience=audience)
        return check(audience=last)

    def _resolved(self, delivery: Delivery, message: Message, task: Task) -> ResolvedDelivery:
        """Return a delivery with its task. Raises MessageRefused if the task needs a record."""
        queue, secret = message.queue, task.secret_names
        if delivery.message is None:
            self._check_direct(message, task)
            queue = self._queue_of(delivery, message, task)
            if message.kwargs and (unknown := task.unknown_names(message.kwargs)):
                secret |= unknown  # another release's, and nobody here knows which are secret
        if queue != message.queue or secret != message.secret:  # copying every message takes time
            message = replace(message, secret=secret, queue=queue)
        queue = queue or task.options.queue
        settings = self._settings()
        return ResolvedDelivery(
            delivery=delivery,
            message=message,
            task=task,
            look=settings.look_terms(queue),
            needs_of=needs_of(task, message, queue, settings.rate_of(queue), self._lock),
        )

    def _check_direct(self, message: Message, task: Task) -> None:
        """Raise MessageRefused if a message carries the call of a task that needs a record."""
        takes_any = self._settings().accepts_any_call
        if message.durable or takes_any or task.is_direct(message.backend):
            return
        raise MessageRefused(
            f"{task.name} is durable and runs only from its record, but this message carries a "
            "call without a record. Declare the task with durable=False, or set "
            "LAMBDA_TASKS_DIRECT_MESSAGES to 'any' while an earlier release or a scheduler sends "
            "such messages."
        )

    def _queue_of(self, delivery: Delivery, message: Message, task: Task) -> str | None:
        """Return the queue that a message belongs to; None for the task's own queue.

        It is always a queue that delivers from the message's source, whatever the body says.
        """
        fed = self._settings().queues_fed_by(delivery.source)
        if message.queue in fed and not message.durable:
            return message.queue
        return next(iter(fed), None) if task.options.queue not in fed else None

    def _admit(
        self, resolved: Sequence[ResolvedDelivery], refused: Settlements
    ) -> Sequence[ResolvedDelivery]:
        """Return the deliveries to claim, without those that wait for a place or a moment."""
        limited = [each for each in resolved if each.needs_of is not None]
        if not limited:
            return resolved
        verdicts = self._limit_verdicts(limited, refused)
        admitted: list[ResolvedDelivery] = []
        for each in resolved:
            verdict = verdicts.get(each.message.invocation_id)
            if isinstance(verdict, Refused):
                refused[each.delivery.id] = settle_refused(each, verdict)
            elif each.delivery.id not in refused:
                admitted.append(_admitted(each, verdict))
        return admitted

    def _limit_verdicts(
        self, limited: Sequence[ResolvedDelivery], refused: Settlements
    ) -> Mapping[UUID, Admitted | Refused]:
        """Return the verdicts on deliveries with limits; settle them where there are none."""
        try:
            return self._limits.admit(limited)
        except Exception as error:
            if is_conflict(error):
                raise
            log_error(logger, error, "%d messages with limits go back", len(limited))
            for each in limited:
                refused[each.delivery.id] = _settle_unclaimed(each.delivery, each.message, error)
            return {}

    def _claim(
        self, resolved: Sequence[ResolvedDelivery], refused: Settlements, budget: TimeBudget
    ) -> list[ClaimedDelivery]:
        settings = self._settings()
        try:
            verdicts = self._claims.claim(
                resolved,
                lease=budget.lease([each.task for each in resolved], settings),
                max_attempts=settings.max_attempts,
                waiting=self._turns.waiting_ids(resolved),
                # Possible poison waits, to run alone. A single delivery with a deadline has the
                # whole function for itself.
                possible_poison_waits=budget.deadline is None or len(resolved) > 1,
            )
        except Exception as error:
            if is_conflict(error):
                logger.info("%d messages could not be claimed for now: %s", len(resolved), error)
                refused.update((each.delivery.id, RETRY_AT_ONCE) for each in resolved)
                return []
            if len(resolved) > 1 and not isinstance(error, UNAVAILABLE):
                # One message that the database refuses fails the statement for all. Claimed one by
                # one, the others still run.
                alone = [self._claim([each], refused, budget) for each in resolved]
                return [claimed for each in alone for claimed in each]
            log_error(logger, error, "%d messages could not be claimed and go back", len(resolved))
            refused.update(
                (each.delivery.id, _settle_unclaimed(each.delivery, each.message, error))
                for each in resolved
            )
            return []
        return self._apply_verdicts(resolved, verdicts, refused)

    def _apply_verdicts(
        self,
        resolved: Sequence[ResolvedDelivery],
        verdicts: Mapping[UUID, Granted | Refused],
        refused: Settlements,
    ) -> list[ClaimedDelivery]:
        granted: dict[UUID, ClaimedDelivery] = {}
        settings = self._settings()
        for each in resolved:
            id = each.message.invocation_id
            verdict = verdicts[id]
            if _is_foreign(each, verdict):
                verdict = Refused(Refusal.FOREIGN)
            if isinstance(verdict, Granted) and id in granted:
                # The same invocation twice in one batch: the second delivery comes back later.
                verdict = Refused(Refusal.HELD, limits_s(each.task, settings)[1])
            if isinstance(verdict, Granted):
                queue = verdict.message.queue or each.queue
                granted[id] = ClaimedDelivery(
                    delivery=each.delivery,
                    message=verdict.message,
                    task=each.task,
                    look=settings.look_terms(queue),
                    claim=verdict.claim,
                    carries_call=each.message.has_arguments,
                )
            else:
                refused[each.delivery.id] = settle_refused(each, verdict)
        if any(isinstance(each, FoundLost) for each in verdicts.values()):
            for id, each in {each.message.invocation_id: each for each in resolved}.items():
                _notify_lost(each, verdicts[id])
        return list(granted.values())


def _admitted(each: ResolvedDelivery, verdict: Admitted | None) -> ResolvedDelivery:
    """Return a delivery with the place that is kept for it.

    One without a verdict can't be claimed. It keeps its needs, and its claim says why.
    """
    return each if verdict is None else replace(each, needs_of=None, places=verdict.places)


def _settle_unclaimed(delivery: Delivery, message: Message, error: Exception) -> Settlement:
    if not isinstance(error, UNAVAILABLE):
        return replace(RETURNED, reason="can't be claimed")
    is_copied = delivery.may_be_copied and not delivery.provides_id_of(message)
    wait_s = outage_wait_s(delivery.receives, is_copied=is_copied)
    return Settlement(
        is_final=False, retry_after_s=wait_s, is_outage=True, reason="database outage"
    )


def _is_foreign(resolved: ResolvedDelivery, verdict: Granted | Refused) -> bool:
    """Return whether a message asks for another task or other arguments than its record."""
    if isinstance(verdict, Granted):
        return not resolved.message.matches_record(verdict.message)
    return resolved.delivery.id in verdict.foreign


def _notify_lost(resolved: ResolvedDelivery, verdict: Granted | Refused) -> None:
    """Notify the listeners of a run that a claim found lost and failed."""
    if isinstance(verdict, FoundLost) and verdict.run is not None:
        lost = replace(resolved, message=verdict.run.message)
        notify_failed(lost, verdict.run.claim, WORKER_DIED)
        queue = lost.message.queue or lost.queue
        announce_failed_unbegun(lost.message, queue=queue, reason=WORKER_DIED)
