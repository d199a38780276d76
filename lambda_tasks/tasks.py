"""The built-in tasks."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final

from pydantic import Field

from . import conf, registry, runtime
from .context import TaskContext
from .core.retention import Retention, cleanups, parse_keep
from .core.signature import SIGNATURE_LIFETIME_S
from .decorators import lambda_task
from .errors import Continue
from .queues.batch import submit_job

ENOUGH_TIME_S: Final = 20.0
"""Seconds before the soft timeout from which on the cleanup goes on in another run."""

Days = Annotated[int, Field(ge=0, le=36_500)]
"""A number of days, up to a hundred years. A negative one would delete all records."""


@lambda_task(atomic=False, durable=True, takes_context=True)
def cleanup_task_records(context: TaskContext, *, retention_days: Days | None = None) -> int:
    """Delete the records of runs that ended long enough ago, in chunks, and return how many.

    A task's `keep` says how long, for other tasks `retention_days`, and by default the setting
    LAMBDA_TASKS_KEEP, which is 7 days. Each chunk is committed on its own. If time runs short, it
    goes on in another run. A call with less than 0 days, or with more than a hundred years, raises
    ValidationError. With LAMBDA_TASKS_SIGNING_KEYS records are kept for at least 14 days, as long
    as a signature is valid: a signed message that is sent again must find the record of its run.
    """
    from .records.retention import delete_ended

    settings, tasks = conf.current(), _tasks_with_keep()
    days = retention_days
    default = settings.keep if days is None else parse_keep("retention_days", days)
    at_least = timedelta(seconds=SIGNATURE_LIFETIME_S if settings.signing_keys else 0)
    deleted: int = context.state or 0
    for cleanup in cleanups(default, tasks):
        for n_deleted in delete_ended(cleanup, tasks, at_least=at_least):
            deleted += n_deleted
            if context.remaining() < ENOUGH_TIME_S:
                raise Continue(deleted)
    return deleted


def _tasks_with_keep() -> Mapping[str, Retention]:
    """Return what the tasks of the project say themselves, by their names and aliases."""
    registry.discover()
    tasks = (registry.registered(name) or registry.find_task(name) for name in registry.names())
    return {
        name: task.options.retention
        for task in tasks
        if task is not None and task.options.retention
        for name in (task.name, *task.options.aliases)
    }


@lambda_task(atomic=False, durable=False)
async def submit_batch_job(*, message_json: str, batch_queue: str) -> str:
    """Submit a message of an AWS Batch queue as a job, and return the job's id.

    The transport of a Batch queue enqueues this task, so that the enqueuing process needs no
    permission to submit jobs.
    """
    here, queue = runtime.current(), conf.current().queue(batch_queue)
    return await here.portal.acall(submit_job, queue, here, message_json)


@lambda_task(atomic=False, durable=True, expires=600, keep=1)
async def answer_doctor() -> None:
    """Do nothing. That it runs is the answer to `manage.py lambda_tasks doctor --round-trip`."""
