"""The AWS Batch entry point: one job runs one message, with the same executor as elsewhere."""

import asyncio
import logging
import os
import signal
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from .. import cold_start, pools
from ..ports import Delivery, Settlement
from ..queues.batch import MESSAGE_VARIABLE, job_delivery
from .ending import CLOSE_LIMIT_S, process_end

if TYPE_CHECKING:
    from ..execution.executor import Executor

logger = logging.getLogger("lambda_tasks")

JOB_QUEUE_VARIABLE: Final = "AWS_BATCH_JQ_NAME"
"""The variable with the name of the job queue, which AWS Batch sets in each job."""

MAX_WAIT_S: Final = 60.0
"""Longest wait in seconds for a message that can't be claimed yet.

If another worker holds the lease for longer, that worker finishes the run.
"""

TERMINATION_LIMIT_S: Final = 25.0
"""Seconds to return the task to its queue and to end after SIGTERM.

AWS Batch sends SIGKILL 30 s after SIGTERM (AWS Batch User Guide, "Job timeouts").
"""


def run_job() -> int:
    """Run the message in LAMBDA_TASKS_MESSAGE, and return the exit code of the job.

    The code is 0 if the message is done, also if its task failed: its record says FAILED then. It
    is 1 if the message has to run again, or can't be run.
    """
    logging.basicConfig(level=logging.INFO)
    body = os.environ.get(MESSAGE_VARIABLE)
    if not body:
        logger.error("%s is not set: there is no message to run.", MESSAGE_VARIABLE)
        return 1
    job_queue = os.environ.get(JOB_QUEUE_VARIABLE)
    if not job_queue:
        logger.error(
            "%s is not set: the message can't be checked against its queue. AWS Batch sets the "
            "variable in each job. If you start the container by hand, set it to the name of the "
            "job queue, as in LAMBDA_TASKS_QUEUES.",
            JOB_QUEUE_VARIABLE,
        )
        return 1
    try:
        cold_start.set_up()
        pools.close()  # the project may have opened them as it was loaded
        return 0 if asyncio.run(_run(body, job_queue)) else 1
    except Exception:
        logger.exception("The job can't run its message.")
        return 1


async def _run(body: str, job_queue: str) -> bool:
    from .. import runtime

    job_id = os.environ.get("AWS_BATCH_JOB_ID")
    delivery = job_delivery(body, job_id=job_id, job_queue=job_queue)
    here = runtime.current()
    here.portal.adopt(asyncio.get_running_loop())
    executor = here.executor(concurrency=1, processes=1)
    shutdown: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop() -> None:
        if not shutdown.done():
            process_end.within(TERMINATION_LIMIT_S, exit_code=1)
            shutdown.set_result(None)

    # AWS Batch sends it when a job is terminated or its spot instance is reclaimed.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    is_settled = False
    try:
        is_settled = await _until_settled(executor, delivery, shutdown)
        return is_settled
    finally:
        # A stuck thread can make the following calls and Python's exit hang. The run is over, so
        # the process may be killed.
        process_end.within(CLOSE_LIMIT_S, exit_code=0 if is_settled else 1)
        await executor.aclose()
        await runtime.aclose(here)


async def _until_settled(
    executor: "Executor", delivery: Delivery, shutdown: "asyncio.Future[None]"
) -> bool:
    while True:
        settlement = await _run_once(executor, delivery, shutdown)
        wait_s = settlement.retry_after_s
        if settlement.is_final or settlement.stops_worker or shutdown.done():
            return settlement.is_final
        if wait_s is None or wait_s > MAX_WAIT_S:
            return False
        await asyncio.wait([shutdown], timeout=max(wait_s, 1.0))


async def _run_once(
    executor: "Executor", delivery: Delivery, shutdown: "asyncio.Future[None]"
) -> Settlement:
    batch = await executor.claim_batch(nullcontext([delivery]))
    settlements = await executor.run_batch(
        batch, metadata=_metadata(), on_settled=lambda *_: None, shutdown=shutdown
    )
    return settlements[delivery.id]


def _metadata() -> dict[str, Any]:
    return {
        "runtime": "batch",
        "job_id": os.environ.get("AWS_BATCH_JOB_ID"),
        "job_attempt": os.environ.get("AWS_BATCH_JOB_ATTEMPT"),
    }
