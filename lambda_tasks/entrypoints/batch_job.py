"""The AWS Batch entry point: one job runs one message, through the executor of every place."""

import asyncio
import logging
import os
import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from .. import cold_start, pools
from ..ports import Delivery, Settlement
from ..queues.batch import MESSAGE_VARIABLE, job_delivery
from .ending import CLOSE_S, process_end

if TYPE_CHECKING:
    from ..execution.executor import Executor

logger = logging.getLogger("lambda_tasks")

LONGEST_WAIT_S: Final = 60.0
"""For a message that came a little too early; who holds its lease for longer will finish it."""

TERMINATED_S: Final = 25.0
"""To give the task back and to end, of the 30 s between SIGTERM and SIGKILL (AWS Batch User Guide,
"Job timeouts")."""


def run_job() -> int:
    """Run the message in LAMBDA_TASKS_MESSAGE. 0 when it has come to its end, 1 where it has not.

    A task that fails has come to its end: its record says FAILED.
    """
    logging.basicConfig(level=logging.INFO)
    body = os.environ.get(MESSAGE_VARIABLE)
    if not body:
        logger.error("%s is not set: there is no message to run.", MESSAGE_VARIABLE)
        return 1
    try:
        cold_start.set_up()
        pools.close()  # which the project's start may have opened
        return 0 if asyncio.run(_run(body)) else 1
    except Exception:
        logger.exception("The job can't run its message.")
        return 1


async def _run(body: str) -> bool:
    from .. import runtime

    here = runtime.current()
    here.portal.adopt(asyncio.get_running_loop())
    executor = here.executor(concurrency=1, processes=1)
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop() -> None:
        if not end.done():
            process_end.within(TERMINATED_S, exit_code=1)
            end.set_result(None)

    # When a job is terminated or its spot instance is reclaimed.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    is_settled = False
    try:
        is_settled = await _until_settled(executor, _delivery(body), end)
        return is_settled
    finally:
        # What follows, and Python's own end, may hang: the process has nothing else to do.
        process_end.within(CLOSE_S, exit_code=0 if is_settled else 1)
        await executor.aclose()
        await runtime.aclose(here)


async def _until_settled(
    executor: "Executor", delivery: Delivery, end: "asyncio.Future[None]"
) -> bool:
    while True:
        settlement = await _run_once(executor, delivery, end)
        wait_s = settlement.retry_after_s
        if settlement.is_final or settlement.stops_worker or end.done():
            return settlement.is_final
        if wait_s is None or wait_s > LONGEST_WAIT_S:
            return False
        await asyncio.wait([end], timeout=max(wait_s, 1.0))


async def _run_once(
    executor: "Executor", delivery: Delivery, end: "asyncio.Future[None]"
) -> Settlement:
    batch = await executor.claim_batch(nullcontext([delivery]))
    settlements = await executor.run_batch(
        batch, metadata=_metadata(), settled=lambda *_: None, end=end
    )
    return settlements[delivery.id]


def _delivery(body: str) -> Delivery:
    return job_delivery(
        body,
        job_id=os.environ.get("AWS_BATCH_JOB_ID"),
        job_queue=os.environ.get("AWS_BATCH_JQ_NAME", ""),
    )


def _metadata() -> dict[str, Any]:
    return {
        "place": "batch",
        "job_id": os.environ.get("AWS_BATCH_JOB_ID"),
        "job_attempt": os.environ.get("AWS_BATCH_JOB_ATTEMPT"),
    }
