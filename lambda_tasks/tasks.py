"""The built-in tasks."""

from datetime import timedelta
from typing import Annotated, Final

from django.utils.timezone import now
from pydantic import Field

from . import conf, runtime
from .core.signature import SIGNATURE_LIFETIME_S
from .decorators import lambda_task
from .queues.batch import submit_job

CHUNK_SIZE: Final = 1000
"""Records that one statement deletes."""

Days = Annotated[int, Field(ge=0, le=36_500)]
"""A number of days, up to a hundred years. A negative one would delete all records."""


@lambda_task(atomic=False, durable=True)
def cleanup_task_records(*, retention_days: Days = 7) -> int:
    """Delete finished records older than `retention_days`, in chunks, and return how many.

    Each chunk is committed on its own, so that a timeout loses no progress. A call with less than 0
    days, or with more than a hundred years, raises ValidationError. With LAMBDA_TASKS_SIGNING_KEYS
    records are kept for at least 14 days, as long as a signature is valid: a signed message that is
    sent again must find the record of its run.
    """
    from .records.queries import delete_finished

    kept = timedelta(days=retention_days)
    if conf.current().signing_keys:
        kept = max(kept, timedelta(seconds=SIGNATURE_LIFETIME_S))
    before = now() - kept
    deleted = 0
    while chunk := delete_finished(before=before, limit=CHUNK_SIZE):
        deleted += chunk
    return deleted


@lambda_task(atomic=False, durable=False)
async def submit_batch_job(*, message_json: str, batch_queue: str) -> str:
    """Submit a message of an AWS Batch queue as a job, and return the job's id.

    The transport of a Batch queue enqueues this task, so that the enqueuing process needs no
    permission to submit jobs.
    """
    here, queue = runtime.current(), conf.current().queue(batch_queue)
    return await here.portal.acall(submit_job, queue, here, message_json)
