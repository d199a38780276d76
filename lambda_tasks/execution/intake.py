"""The first half of a batch: read what has arrived, and claim what may run. Synchronous."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from uuid import UUID

from ..conf import Settings
from ..core.lifecycle import Claim, Refusal, Refused
from ..core.message import decode
from ..core.signature import verify
from ..errors import MessageRefused
from ..logging import task_logger
from ..ports import ClaimRequest, Records, Resolve
from . import connections as kept_connections
from .delivery import BACK, DONE, Asked, Claimed, Delivery, Settlement, behind_refused
from .limits import lease_of, limits_s

logger = logging.getLogger("lambda_tasks")


class Intake:
    """What is refused is told why, and takes no neighbour along."""

    def __init__(
        self, records: Records, settings: Callable[[], Settings], resolve: Resolve
    ) -> None:
        self._records = records
        self._settings = settings
        self._resolve = resolve

    def take(
        self, arriving: AbstractContextManager[Sequence[Delivery]], deadline: float | None
    ) -> tuple[dict[str, Settlement], list[Claimed]]:
        """What is refused, and what is claimed. `arriving` is open until all is claimed."""
        kept_connections.refresh()
        with arriving as deliveries:
            asked, settlements = self._parse(deliveries)
            claimed = self._claim(asked, settlements, deadline)
        behind = behind_refused(deliveries, settlements)
        for item, claim in claimed:
            if item.delivery.id in behind:
                settlements[item.delivery.id] = give_back(self._records, item, claim, started=False)
        return settlements, [each for each in claimed if each[0].delivery.id not in behind]

    def _parse(self, deliveries: Sequence[Delivery]) -> tuple[list[Asked], dict[str, Settlement]]:
        asked: list[Asked] = []
        refused: dict[str, Settlement] = {}
        keys = self._settings().signing_keys
        for delivery in deliveries:
            try:
                body = delivery.body
                if not delivery.is_row:
                    body = verify(body, keys=keys, queue=delivery.queue)
                message = decode(body, fallback_id=delivery.fallback_id)
                task = self._resolve(message.task_name, message.backend)
                message = replace(message, secret=task.secret_names)
                asked.append(Asked(delivery, message, task))
            except MessageRefused as reason:
                logger.error("%s is not run and goes back to its queue: %s", delivery.id, reason)
                refused[delivery.id] = BACK
            except Exception:
                logger.exception("%s goes back to its queue: its task's module fails", delivery.id)
                refused[delivery.id] = BACK
        return asked, refused

    def _claim(
        self,
        asked: Sequence[Asked],
        settlements: dict[str, Settlement],
        deadline: float | None,
    ) -> list[Claimed]:
        if not asked:
            return []
        requests = [
            ClaimRequest(
                message=item.message,
                queue=item.queue,
                enqueued_at=item.delivery.enqueued_at,
                rerun_when_lost=item.task.options.on_lost == "rerun",
            )
            for item in asked
        ]
        try:
            verdicts = self._records.claim(
                requests,
                lease=lease_of([item.task for item in asked], self._settings(), deadline),
                max_attempts=self._settings().max_attempts,
            )
        except Exception as error:
            if len(asked) > 1 and not isinstance(error, kept_connections.OUTAGES):
                # What the database refuses of one message must not hold up its neighbours.
                alone = [self._claim([item], settlements, deadline) for item in asked]
                return [claimed for each in alone for claimed in each]
            logger.exception("%d messages could not be claimed and go back", len(asked))
            settlements.update((item.delivery.id, BACK) for item in asked)
            return []
        return self._granted(asked, verdicts, settlements)

    def _granted(
        self,
        asked: Sequence[Asked],
        verdicts: Mapping[UUID, Claim | Refused],
        settlements: dict[str, Settlement],
    ) -> list[Claimed]:
        granted: dict[UUID, Claimed] = {}
        for item in asked:
            id = item.message.invocation_id
            verdict = verdicts[id]
            if isinstance(verdict, Claim) and id in granted:
                # Twice in one batch: the second comes back and finds it finished.
                verdict = Refused(Refusal.HELD, again_in_s=limits_s(item.task, self._settings())[1])
            if isinstance(verdict, Claim):
                granted[id] = (item, verdict)
            else:
                settlements[item.delivery.id] = _settle_refused(item, verdict)
        return list(granted.values())


def give_back(records: Records, item: Asked, claim: Claim, *, started: bool) -> Settlement:
    """Let another delivery run what was claimed; what was not `started` counts as no attempt."""
    try:
        records.release(claim, started=started, comes_back=item.delivery.comes_back)
    except Exception:
        logger.exception("%s comes back when its lease is over", claim.invocation_id)
        return BACK
    return Settlement(acknowledge=False, again_in_s=0.0)


def _settle_refused(item: Asked, refused: Refused) -> Settlement:
    if refused.acknowledge:
        task_logger.info(
            "%s %s is %s already: its delivery is done with",
            item.task.name, item.message.invocation_id, refused.refusal.name.lower(),
        )  # fmt: skip
        return DONE
    logger.warning(
        "%s %s goes back to its queue: %s",
        item.task.name, item.message.invocation_id, refused.refusal.name.lower(),
    )  # fmt: skip
    waits = refused.refusal in (Refusal.HELD, Refusal.NOT_DUE)
    return Settlement(acknowledge=False, again_in_s=refused.again_in_s if waits else None)
