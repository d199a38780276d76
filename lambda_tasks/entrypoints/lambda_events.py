"""Lambda's events: runs the records of one, tells which must come back, relays on a tick.

`handler` is the module that Lambda starts; it keeps one EventHandler from event to event.
"""

import asyncio
import logging
import platform
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Self

import django

from ..conf import current
from ..database_calls import call_database
from ..execution import connections
from ..execution.executor import Executor
from ..ports import Delivery, Settlement
from ..queues.sqs_deliveries import delivery_of
from ..runtime import Runtime

logger = logging.getLogger("lambda_tasks")

RESPONSE_MARGIN_S: Final = 2.0
"""Before Lambda's own timeout, to settle and to answer: a timeout would replay the whole batch. Of
a short timeout it is a fifth."""

STUCK: Final = 0.4
"""The part of the margin in which the executor gives back what it could not finish."""

POSTPONE: Final = 0.35
"""The part of it for SQS to take back what must come back at a certain time: a courtesy."""

RELAY_EVERY_S: Final = 60.0
RELAY_NEEDS_S: Final = 10.0

THE_WHOLE_BATCH: Final = ""
"""An empty identifier makes Lambda return all records (Using Lambda with Amazon SQS, "Implementing
partial batch responses")."""

TAKES: Final = (
    'This handler takes SQS events, {"lambda_tasks": "ping"} and {"lambda_tasks": "tick"}.'
)


class EventHandler:
    """Answers events, on whatever loop it is called on."""

    def __init__(self, runtime: Runtime, executor: Executor) -> None:
        self._runtime = runtime
        self._executor = executor
        self.relayed_at = time.monotonic()
        self._versions = _versions()

    async def handle(self, event: Any, context: Any) -> dict[str, Any]:
        """Answer one event.

        Raises ValueError for one of another kind, and KeyboardInterrupt where a task has raised
        it, once all other records are settled.
        """
        match event:
            case {"Records": [*records]} if any(map(_is_of_sqs, records)):
                return await self._run_records(records, context)
            case {"lambda_tasks": "ping"}:
                return self._versions
            case {"lambda_tasks": "tick"}:
                return await self._tick(_AnswerBy.of(context).deadline)
        raise ValueError(f"{TAKES} It was given {_kind(event)}.")

    async def _run_records(self, records: list[Any], context: Any) -> dict[str, Any]:
        answer_by = _AnswerBy.of(context)
        deadline = answer_by.deadline
        of_sqs = [record for record in records if _is_of_sqs(record)]
        # All count as failed until their outcome is durable.
        open_ids = Counter(record["messageId"] for record in of_sqs)

        def settled(id: str, settlement: Settlement) -> None:
            if settlement.is_final:
                open_ids[id] -= 1

        running = asyncio.ensure_future(
            self._executor.run(
                [_delivery(record) for record in of_sqs],
                deadline=deadline,
                metadata=_metadata(context),
                settled=settled,
            )
        )
        settlements = await _result_before(answer_by, running)
        if any(each.retry_after_s is not None for each in settlements.values()):
            await self._postpone(of_sqs, settlements, limit_s=answer_by.margin_s * POSTPONE)
        await self._relay_if_due(deadline)
        if any(settlement.stops_worker for settlement in settlements.values()):
            raise KeyboardInterrupt
        failures = list(+open_ids)
        if len(of_sqs) < len(records):
            logger.error("A record of the event has no messageId or is not of SQS: all come back.")
            failures.append(THE_WHOLE_BATCH)
        return {"batchItemFailures": [{"itemIdentifier": id} for id in failures]}

    async def _postpone(
        self, records: list[Any], settlements: Mapping[str, Settlement], *, limit_s: float
    ) -> None:
        """Make what must wait visible at its time, instead of after the queue's timeout."""
        waiting = [
            self._postpone_one(record, settlement.retry_after_s)
            for record in records
            if (settlement := settlements.get(record["messageId"])) is not None
            and settlement.retry_after_s is not None
            and record.get("receiptHandle")
        ]
        if not waiting:
            return
        tasks = [asyncio.ensure_future(each) for each in waiting]
        _, late = await asyncio.wait(tasks, timeout=limit_s)
        for task in late:
            task.cancel()

    async def _postpone_one(self, record: Mapping[str, Any], seconds: float) -> None:
        arn, receipt_handle = record.get("eventSourceARN", ""), record["receiptHandle"]
        try:
            for queue in current().queues.values():
                if queue.is_fed_by(arn):
                    postpone = queue.postpone
                    await self._runtime.portal.acall(
                        postpone, self._runtime, receipt_handle, seconds
                    )
                    return
        except Exception:
            logger.warning("%s keeps its visibility timeout", record["messageId"], exc_info=True)

    async def _relay_if_due(self, deadline: float | None) -> None:
        now = time.monotonic()
        hurried = deadline is not None and deadline - now < RELAY_NEEDS_S
        if hurried or now - self.relayed_at < RELAY_EVERY_S:
            return
        self.relayed_at = now
        try:
            await self._relay(deadline)
        except Exception:
            logger.exception("The relay failed; it runs again with a later event.")

    async def _tick(self, deadline: float | None) -> dict[str, Any]:
        return {"relayed": await self._relay(deadline)}

    async def _relay(self, deadline: float | None) -> int:
        """Send what was left; how many went. Raises TimeoutError at the deadline."""
        relaying = asyncio.ensure_future(self._refresh_and_relay())
        left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        done, _ = await asyncio.wait([relaying], timeout=left_s)
        if done:
            return relaying.result()
        relaying.cancel()
        raise TimeoutError("The relay has not come to its end before the function's deadline.")

    async def _refresh_and_relay(self) -> int:
        await call_database(connections.refresh)
        return await self._runtime.relay.run_once()


@dataclass(frozen=True, slots=True)
class _AnswerBy:
    """When an event is to be answered: its deadline, in monotonic seconds, and a margin after it.

    There is no deadline where the caller tells no time.
    """

    deadline: float | None = None
    margin_s: float = RESPONSE_MARGIN_S

    @classmethod
    def of(cls, context: Any) -> Self:
        """By what Lambda's context of an event tells."""
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        if remaining is None:
            return cls()
        left_s: float = remaining() / 1000
        margin_s = min(RESPONSE_MARGIN_S, left_s / 5)
        return cls(time.monotonic() + left_s - margin_s, margin_s)


async def _result_before(
    answer_by: _AnswerBy, running: "asyncio.Future[dict[str, Settlement]]"
) -> dict[str, Settlement]:
    """What the executor says; nothing where it is stuck itself, so that the answer gets out."""
    left_s = None
    if answer_by.deadline is not None:
        left_s = max(answer_by.deadline - time.monotonic(), 0.0) + answer_by.margin_s * STUCK
    done, _ = await asyncio.wait([running], timeout=left_s)
    if done:
        return running.result()
    running.cancel()
    logger.error("The records are not settled in time and come back.")
    return {}


def _metadata(context: Any) -> dict[str, Any]:
    return {
        "place": "lambda",
        "aws_request_id": getattr(context, "aws_request_id", None),
        "function_name": getattr(context, "function_name", None),
    }


def _is_of_sqs(record: Any) -> bool:
    match record:
        case {"eventSource": "aws:sqs", "messageId": str(message_id)}:
            return bool(message_id)
    return False


def _delivery(record: Mapping[str, Any]) -> Delivery:
    source = str(record.get("eventSourceARN") or "")
    attributes = record.get("attributes")
    return delivery_of(record["messageId"], record.get("body"), attributes, source=source)


def _kind(event: Any) -> str:
    if isinstance(event, Mapping):
        return f"an object with the keys {sorted(map(str, event))[:10]}"
    return f"a {type(event).__name__}"


def _versions() -> dict[str, Any]:
    try:
        own = version("lambda-tasks")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "lambda_tasks": own,
        "django": django.get_version(),
        "python": platform.python_version(),
    }
