"""The Lambda handler: takes an event, runs its records, tells Lambda which must come back.

A plain function, as awslambdaric calls it, with one event loop, the worker processes and the
database connections kept from one invocation to the next.
"""

import asyncio
import contextvars
import logging
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

from . import cold_start

if TYPE_CHECKING:
    from .execution.delivery import Delivery, Settlement
    from .execution.executor import Executor
    from .runtime import Runtime

logger = logging.getLogger("lambda_tasks")

RESPONSE_MARGIN_S: Final = 2.0
"""Before Lambda's own timeout, to settle and to answer: a timeout would replay the whole batch."""

STUCK_S: Final = 0.8
"""After the deadline, in which the executor gives back what it could not finish."""

POSTPONE_S: Final = 0.7
"""For SQS to take back what must come back at a certain time: a courtesy, within the margin."""

RELAY_EVERY_S: Final = 60.0
RELAY_NEEDS_S: Final = 10.0

THE_WHOLE_BATCH: Final = ""
"""An empty identifier makes Lambda return all records (Using Lambda with Amazon SQS, "Implementing
partial batch responses")."""

IN_LAMBDA: Final = "AWS_LAMBDA_RUNTIME_API" in os.environ

AMPLE_MIB: Final = 512
"""From here on there is room for a fork server from the start. A smaller function gets one with its
first sync task."""

TAKES: Final = (
    'This handler takes SQS events, {"lambda_tasks": "ping"} and {"lambda_tasks": "tick"}.'
)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """AWS Lambda's entry point. Raises ValueError for an event of another kind."""
    return _warm().handle(event, context)


class EventHandler:
    """Answers events, on whatever loop it is called on."""

    def __init__(self, runtime: "Runtime", executor: "Executor") -> None:
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
                return await self._tick()
        raise ValueError(f"{TAKES} It was given {_kind(event)}.")

    async def _run_records(self, records: list[Any], context: Any) -> dict[str, Any]:
        deadline = _deadline(context)
        of_sqs = [record for record in records if _is_of_sqs(record)]
        # All count as failed until their outcome is durable.
        open_ids = Counter(record["messageId"] for record in of_sqs)

        def settled(id: str, settlement: "Settlement") -> None:
            if settlement.acknowledge:
                open_ids[id] -= 1

        running = asyncio.ensure_future(
            self._executor.run(
                [_delivery(record) for record in of_sqs],
                deadline=deadline,
                metadata=_metadata(context),
                settled=settled,
            )
        )
        settlements = await _by(deadline, running)
        await self._postpone(of_sqs, settlements)
        await self._relay_now_and_then(deadline)
        if any(settlement.interrupts for settlement in settlements.values()):
            raise KeyboardInterrupt
        failures = list(+open_ids)
        if len(of_sqs) < len(records):
            logger.error("A record of the event has no messageId or is not of SQS: all come back.")
            failures.append(THE_WHOLE_BATCH)
        return {"batchItemFailures": [{"itemIdentifier": id} for id in failures]}

    async def _postpone(self, records: list[Any], settlements: Mapping[str, "Settlement"]) -> None:
        """Make what must wait visible at its time, instead of after the queue's timeout."""
        waiting = [
            self._postpone_one(record, settlement.again_in_s)
            for record in records
            if (settlement := settlements.get(record["messageId"])) is not None
            and settlement.again_in_s is not None
        ]
        if waiting:
            tasks = [asyncio.ensure_future(each) for each in waiting]
            _, late = await asyncio.wait(tasks, timeout=POSTPONE_S)
            for task in late:
                task.cancel()

    async def _postpone_one(self, record: Mapping[str, Any], seconds: float) -> None:
        try:
            await self._runtime.postpone(
                record.get("eventSourceARN", ""), record.get("receiptHandle", ""), seconds
            )
        except Exception:
            logger.warning("%s keeps its visibility timeout", record["messageId"], exc_info=True)

    async def _relay_now_and_then(self, deadline: float | None) -> None:
        now = time.monotonic()
        hurried = deadline is not None and deadline - now < RELAY_NEEDS_S
        if hurried or now - self.relayed_at < RELAY_EVERY_S:
            return
        self.relayed_at = now
        try:
            await self._runtime.relay.run_once()
        except Exception:
            logger.exception("The relay failed; it runs again with a later event.")

    async def _tick(self) -> dict[str, Any]:
        from asgiref.sync import sync_to_async

        from .execution import connections

        await sync_to_async(connections.refresh)()
        return {"relayed": await self._runtime.relay.run_once()}


class LambdaHandler:
    """What stays from one invocation to the next."""

    def __init__(self) -> None:
        cold_start.set_up()
        from . import runtime

        self._runner = asyncio.Runner()
        # Its events have no context in common with whatever has called for the first of them.
        contextvars.Context().run(self._runner.get_loop)
        self._runtime = runtime.current()
        if IN_LAMBDA:
            # Elsewhere somebody may enqueue between two events, when this loop stands still.
            self._runtime.portal.adopt(self._runner.get_loop())
        self._executor = self._runtime.executor()
        self._events = EventHandler(self._runtime, self._executor)
        if _memory_mib() >= AMPLE_MIB:
            self._executor.prepare()
        if IN_LAMBDA:
            _register_snapshot_hooks(self)

    def handle(self, event: Any, context: Any) -> dict[str, Any]:
        """Answer one event."""
        return self._runner.run(self._events.handle(event, context))

    def pids(self) -> list[int]:
        """The worker processes that run."""
        return self._executor.pids()

    def before_snapshot(self) -> None:
        """Close what must not be open in two places: SnapStart makes many of this process."""
        from django.db import connections

        connections.close_all()
        self._runner.run(self._disconnect())

    def after_restore(self) -> None:
        """Begin anew what every copy would else have in common."""
        random.seed()
        self._events.relayed_at = time.monotonic()

    def close(self) -> None:
        """End lanes, worker processes and connections."""
        self._runner.run(self._close())
        self._runner.close()

    async def _disconnect(self) -> None:
        await self._executor.aclose()
        await self._runtime.disconnect()

    async def _close(self) -> None:
        await self._executor.aclose()
        from . import runtime

        await runtime.aclose(self._runtime)


_kept: dict[str, LambdaHandler] = {}


def _warm() -> LambdaHandler:
    """The handler of this process; a cold start that fails is tried again by the next event."""
    pid = str(os.getpid())
    if pid not in _kept:
        _kept[pid] = LambdaHandler()
    return _kept[pid]


def close() -> None:
    """End what a handler in this process has kept; the next event is a cold start."""
    warm = _kept.pop(str(os.getpid()), None)
    if warm is not None:
        warm.close()


def pids() -> list[int]:
    """The worker processes of this function, for who plays its end."""
    warm = _kept.get(str(os.getpid()))
    return [] if warm is None else warm.pids()


def _deadline(context: Any) -> float | None:
    """In monotonic seconds; None where the caller tells no time."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    if remaining is None:
        return None
    left_s: float = remaining() / 1000
    return time.monotonic() + left_s - RESPONSE_MARGIN_S


async def _by(
    deadline: float | None, running: "asyncio.Future[dict[str, Settlement]]"
) -> "dict[str, Settlement]":
    """What the executor says; nothing where it is stuck itself, so that the answer gets out."""
    left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0) + STUCK_S
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


def _delivery(record: Mapping[str, Any]) -> "Delivery":
    from .execution.delivery import Delivery, as_uuid

    message_id = record["messageId"]
    queue = str(record.get("eventSourceARN") or "").rpartition(":")[2]
    return Delivery(
        id=message_id,
        body=record.get("body"),
        queue=queue,
        fallback_id=as_uuid(message_id),
        enqueued_at=_sent_at(record.get("attributes")),
        ordered_by=_group(record.get("attributes")) if queue.endswith(".fifo") else None,
    )


def _group(attributes: Any) -> str | None:
    group = attributes.get("MessageGroupId") if isinstance(attributes, Mapping) else None
    return group if isinstance(group, str) else None


def _sent_at(attributes: Any) -> datetime | None:
    from .core.message import YEARS

    try:
        milliseconds = int(attributes["SentTimestamp"])
        sent_at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return sent_at if sent_at.year in YEARS else None


def _kind(event: Any) -> str:
    if isinstance(event, Mapping):
        return f"an object with the keys {sorted(map(str, event))[:10]}"
    return f"a {type(event).__name__}"


def _versions() -> dict[str, Any]:
    import django

    try:
        own = version("lambda-tasks")
    except PackageNotFoundError:
        own = "unknown"
    return {
        "lambda_tasks": own,
        "django": django.get_version(),
        "python": platform.python_version(),
    }


def _memory_mib() -> int:
    size = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    return int(size) if size.isdecimal() else 0


def _register_snapshot_hooks(warm: LambdaHandler) -> None:
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ModuleNotFoundError:
        return  # a runtime that takes no snapshots
    register_before_snapshot(warm.before_snapshot)
    register_after_restore(warm.after_restore)


def _is_the_function() -> bool:
    """This module is what Lambda starts, and no project's own that imports it; nor is this one of
    its worker processes."""
    processes = sys.modules.get("multiprocessing.process")
    if not IN_LAMBDA or (processes is not None and processes.parent_process() is not None):
        return False
    ours = f"{__name__}.{handler.__name__}"
    return os.environ.get("_HANDLER", ours).replace("/", ".") == ours


if __name__ == "__main__":
    from .batch_job import run_job

    sys.exit(run_job())
elif _is_the_function():
    # In Lambda's init phase, which has a CPU to itself and is what SnapStart takes a snapshot of.
    _warm()
