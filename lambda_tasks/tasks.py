"""Built-in tasks."""

from datetime import timedelta
from typing import Annotated, Final

from django.utils.timezone import now
from pydantic import Field

from . import conf, runtime
from .core.signature import SIGNATURE_LIFETIME_S
from .decorators import lambda_task
from .queues.batch import submit_job

CHUNK: Final = 1000


Days = Annotated[int, Field(ge=0, le=36_500)]
"""A negative number would mean a moment that is still to come, and so all records."""


@lambda_task(atomic=False, durable=True)
def cleanup_task_records(*, retention_days: Days = 7) -> int:
    """Delete finished records older than that, in chunks; return how many.

    Not in one transaction: each chunk counts, however many there are. A call with less than 0 days,
    or with more than a hundred years, raises ValidationError. With LAMBDA_TASKS_SIGNING_KEYS
    records stay for 14 days at least, as long as a signature counts: a message that is sent once
    more finds that it has run.
    """
    from .records.queries import delete_finished

    kept = timedelta(days=retention_days)
    if conf.current().signing_keys:
        kept = max(kept, timedelta(seconds=SIGNATURE_LIFETIME_S))
    before = now() - kept
    deleted = 0
    while chunk := delete_finished(before=before, limit=CHUNK):
        deleted += chunk
    return deleted


@lambda_task(atomic=False, durable=False)
async def submit_batch_job(*, message_json: str, batch_queue: str) -> str:
    """Submit a message of an AWS Batch queue as a job; return the job's id.

    What asks for it is the transport: who enqueues need not be allowed to submit jobs.
    """
    here, queue = runtime.current(), conf.current().queue(batch_queue)
    return await here.portal.acall(submit_job, queue, here, message_json)
