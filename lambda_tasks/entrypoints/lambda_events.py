"""Answers Lambda's events: it runs an event's records, reports failures, and relays on a tick.

Lambda starts the module `handler`, which keeps one EventHandler for all events.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from ..conf import current
from ..database_calls import call_database
from ..doctor.versions import versions
from ..execution import connections
from ..execution.executor import Executor
from ..logging import log_error
from ..ports import Delivery, RoundResult, Settlement
from ..queues.sqs_deliveries import delivery_of
from ..runtime import Runtime

logger = logging.getLogger("lambda_tasks")

RESPONSE_MARGIN_S: Final = 2.0
"""Seconds before Lambda's timeout to settle and to answer; a fifth of a short timeout.

After a timeout Lambda would deliver the whole batch again.
"""

RETURN_FRACTION: Final = 0.4
"""The fraction of the margin in which the executor returns unfinished runs to their queues."""

POSTPONE_FRACTION: Final = 0.35
"""The fraction of the margin for changing visibility timeouts in SQS. This is best effort."""

MAX_POSTPONE_S: Final = 5.0
"""The most seconds for changing visibility timeouts, if the event ends long before its deadline."""

RELAY_NEEDS_S: Final = 10.0
"""Seconds before the deadline that a relay after an event needs, and the question for its shift."""

DOCTOR_LIMIT_S: Final = 40.0
"""The most seconds that a function examines itself, so that its caller hears of it."""

WHOLE_BATCH: Final = ""
"""An empty identifier, which makes Lambda return all records to the queue.

See "Implementing partial batch responses" in Using Lambda with Amazon SQS.
"""

ACCEPTED_EVENTS: Final = (
    'This handler accepts SQS events, {"lambda_tasks": "ping"}, {"lambda_tasks": "tick"} and '
    '{"lambda_tasks": "doctor"}.'
)


class EventHandler:
    """A handler of events, on whatever event loop calls it."""

    def __init__(self, runtime: Runtime, executor: Executor) -> None:
        self._runtime = runtime
        self._executor = executor
        self._shifts = runtime.relay_shifts
        self._versions = versions()
        self._shutdown: asyncio.Future[None] | None = None

    @property
    def has_runs(self) -> bool:
        """Whether the current event has runs that are not settled."""
        return self._shutdown is not None

    def interrupt(self) -> None:
        """Interrupt the runs of the current event, which go back to their queues."""
        if self._shutdown is not None and not self._shutdown.done():
            self._shutdown.set_result(None)

    async def handle(self, event: Any, context: Any) -> dict[str, Any]:
        """Answer one event.

        Raises ValueError for an event of an unknown kind. Raises KeyboardInterrupt if a task
        raised it, after all records are settled.
        """
        match event:
            case {"Records": [*records]} if any(map(_is_of_sqs, records)):
                return await self._run_records(records, context)
            case {"lambda_tasks": "ping"}:
                return self._versions
            case {"lambda_tasks": "tick"}:
                return await self._tick(_AnswerBy.of(context).deadline)
            case {"lambda_tasks": "doctor"}:
                return await self._examine(context)
        raise ValueError(f"{ACCEPTED_EVENTS} It received {_describe(event)}.")

    async def _run_records(self, records: list[Any], context: Any) -> dict[str, Any]:
        answer_by = _AnswerBy.of(context)
        deadline = answer_by.deadline
        of_sqs = [record for record in records if _is_of_sqs(record)]
        # Every record counts as failed until its outcome is durable. A counter, as one message may
        # be delivered twice in an event.
        open_ids = Counter(record["messageId"] for record in of_sqs)

        def on_settled(id: str, settlement: Settlement) -> None:
            if settlement.is_final:
                open_ids[id] -= 1

        self._shutdown = asyncio.get_running_loop().create_future()
        running = asyncio.ensure_future(
            self._executor.run(
                [_delivery(record) for record in of_sqs],
                deadline=deadline,
                metadata=_metadata(context),
                on_settled=on_settled,
                shutdown=self._shutdown,
            )
        )
        try:
            settlements = await _result_before(answer_by, running)
        finally:
            self._shutdown = None
        if any(each.retry_after_s is not None for each in settlements.values()):
            await self._postpone(of_sqs, settlements, limit_s=answer_by.postpone_limit_s)
        await self._relay_if_due(deadline)
        if any(settlement.stops_worker for settlement in settlements.values()):
            raise KeyboardInterrupt
        failures = list(+open_ids)
        if len(of_sqs) < len(records):
            logger.error(
                "The whole batch goes back: a record of the event has no messageId, or is not "
                "from SQS."
            )
            failures.append(WHOLE_BATCH)
        return {"batchItemFailures": [{"itemIdentifier": id} for id in failures]}

    async def _postpone(
        self, records: list[Any], settlements: Mapping[str, Settlement], *, limit_s: float
    ) -> None:
        """Set the visibility timeouts of the deliveries that go back for a certain time."""
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
            logger.warning(
                "Message %s keeps its visibility timeout, which can't be changed",
                record["messageId"], exc_info=True,
            )  # fmt: skip

    async def _relay_if_due(self, deadline: float | None) -> None:
        hurried = deadline is not None and deadline - time.monotonic() < RELAY_NEEDS_S
        if hurried or self._shifts.due_in_s:
            return
        try:
            await self._run_round(deadline)
        except Exception as error:
            log_error(logger, error, "The relay failed; it runs again with a later event")

    async def _tick(self, deadline: float | None) -> dict[str, Any]:
        done = await self._run_round(deadline, always=True)
        return {"relayed": done.relayed, "scheduled": done.scheduled}

    async def _examine(self, context: Any) -> dict[str, Any]:
        """Return what is wrong, as this function sees it, and what the caller compares with it."""
        from ..doctor.examination import examine
        from ..doctor.inside import about_this_side

        answer_by = _AnswerBy.of(context).deadline
        latest = time.monotonic() + DOCTOR_LIMIT_S
        examined = await examine(
            self._runtime,
            own_arn=getattr(context, "invoked_function_arn", None),
            deadline=latest if answer_by is None else min(answer_by, latest),
        )
        here = await call_database(about_this_side)
        return {**here, "findings": [each.as_json() for each in examined.findings]}

    async def _run_round(self, deadline: float | None, *, always: bool = False) -> RoundResult:
        """Enqueue what schedules have due, relay the messages that were left, and count both.

        Does nothing if another process has the shift, unless `always`. Raises TimeoutError at the
        deadline.
        """
        running = asyncio.ensure_future(self._run_round_in_shift(always=always))
        left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        # Not wait_for(), which would wait for the cancelled relay to end: it may hang.
        done, _ = await asyncio.wait([running], timeout=left_s)
        if done:
            return running.result()
        running.cancel()
        raise TimeoutError("The relay did not end before the function's deadline.")

    async def _run_round_in_shift(self, *, always: bool) -> RoundResult:
        await call_database(connections.refresh)
        is_ours = await self._shifts.take(always=always)
        return await self._runtime.round.run() if is_ours else RoundResult()


@dataclass(frozen=True, slots=True)
class _AnswerBy:
    """The time by which an event has to be answered."""

    deadline: float | None = None
    """The time by which all must be settled, in `time.monotonic()` seconds; None for no limit."""
    margin_s: float = RESPONSE_MARGIN_S
    """Seconds between the deadline and Lambda's timeout."""

    @property
    def postpone_limit_s(self) -> float:
        """The seconds for changing visibility timeouts from now on."""
        if self.deadline is None:
            return MAX_POSTPONE_S
        left_s = max(self.deadline - time.monotonic(), 0.0)
        return min(left_s + self.margin_s * POSTPONE_FRACTION, MAX_POSTPONE_S)

    @classmethod
    def of(cls, context: Any) -> Self:
        """Return the time to answer by that follows from Lambda's context of an event."""
        remaining = getattr(context, "get_remaining_time_in_millis", None)
        if remaining is None:
            return cls()
        left_s: float = remaining() / 1000
        margin_s = min(RESPONSE_MARGIN_S, left_s / 5)
        return cls(time.monotonic() + left_s - margin_s, margin_s)


async def _result_before(
    answer_by: _AnswerBy, running: "asyncio.Future[dict[str, Settlement]]"
) -> dict[str, Settlement]:
    """Return the executor's settlements, or none if it does not end in time."""
    left_s = None
    if answer_by.deadline is not None:
        left_s = (
            max(answer_by.deadline - time.monotonic(), 0.0) + answer_by.margin_s * RETURN_FRACTION
        )
    # Not wait_for(), which would wait for the cancelled executor to end: Lambda gets its answer
    # even if that hangs.
    done, _ = await asyncio.wait([running], timeout=left_s)
    if done:
        return running.result()
    running.cancel()
    logger.error("The executor did not settle the records in time; those that are open go back.")
    return {}


def _metadata(context: Any) -> dict[str, Any]:
    return {
        "runtime": "lambda",
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


def _describe(event: Any) -> str:
    if isinstance(event, Mapping):
        return f"an object with the keys {sorted(map(str, event))[:10]}"
    return f"a {type(event).__name__}"
