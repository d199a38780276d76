"""AWS Batch: the job queue, the job definition and the computers behind a queue of jobs."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..core.aws_values import JOB_MARGIN_S
from .facts import LiveJobs
from .findings import Found, check


@check(
    "batch.job_queue",
    "error",
    why="AWS Batch refuses each job, so no task of this queue runs.",
)
def job_queue(jobs: LiveJobs) -> Iterator[Found]:
    """Yield that the job queue is missing, disabled or invalid."""
    found, arn = jobs.job_queue.value, jobs.queue.job_queue_arn
    if found is None:
        yield Found(
            f"AWS Batch has no job queue {arn}.",
            "A job queue of this ARN.",
            f'Create it, or correct "job_queue_arn" of LAMBDA_TASKS_QUEUES[{jobs.queue.name!r}].',
            "AWS::Batch::JobQueue",
        )
    elif found["state"] != "ENABLED":
        yield Found(
            f"The state of {arn} is {found['state']}.",
            "ENABLED.",
            f"aws batch update-job-queue --job-queue {arn} --state ENABLED --region {jobs.region}, "
            "once what it was disabled for is over",
            "State: ENABLED",
        )
    elif found.get("status") == "INVALID":
        yield Found(
            f"The status of {arn} is INVALID: {_reason(found)}",
            "VALID.",
            "Correct what the reason names.",
        )


@check(
    "batch.job_definition",
    "error",
    why="AWS Batch refuses each job, so no task of this queue runs.",
)
def job_definition(jobs: LiveJobs) -> Iterator[Found]:
    """Yield that there is no active job definition, or that it can't be given a message."""
    found, arn = jobs.definition.value, jobs.queue.job_definition_arn
    setting = f'"job_definition_arn" of LAMBDA_TASKS_QUEUES[{jobs.queue.name!r}]'
    if found is None or found.get("status") != "ACTIVE":
        yield Found(
            f"AWS Batch has no active job definition {arn}.",
            "An active one. Each change makes a new revision, and may deregister the old one.",
            f"Register it, or correct {setting}. Without a revision, it means the latest.",
            "AWS::Batch::JobDefinition",
        )
    elif not found.get("containerProperties"):
        yield Found(
            f"{arn} has no containerProperties.",
            "A definition of one container, which gets the message in its environment.",
            f"Register one with containerProperties, and name it in {setting}.",
            "ContainerProperties: {Image: ...}",
        )


@check(
    "batch.compute_environment",
    "error",
    why="Jobs wait as RUNNABLE where no compute environment takes them, and nothing fails.",
)
def compute_environment(jobs: LiveJobs) -> Iterator[Found]:
    """Yield the compute environments of the job queue that take no jobs."""
    environments = jobs.environments.value
    idle = [each for each in environments if not _takes_jobs(each)]
    for each in idle:
        name = each["computeEnvironmentName"]
        yield Found(
            f"The compute environment {name} is {each['state']} and {each.get('status')}: "
            f"{_reason(each)}",
            "ENABLED and VALID.",
            f"aws batch update-compute-environment --compute-environment {name} --state ENABLED "
            f"--region {jobs.region}; where it is INVALID, correct what the reason names",
            "State: ENABLED",
            None if len(idle) == len(environments) else "warning",
        )


@check(
    "batch.job_role",
    "warning",
    why="Without a role a job can't send its retry, nor what its task calls: both wait for the "
    "relay. On EC2 it may have the role of its instance.",
)
def job_role(jobs: LiveJobs) -> Iterator[Found]:
    """Yield that jobs have no role, although there are queues in SQS."""
    definition = jobs.definition.value
    container = (definition or {}).get("containerProperties")
    if container and jobs.plan.queues and not container.get("jobRoleArn"):
        yield Found(
            "The job definition has no jobRoleArn.",
            "A role that ecs-tasks.amazonaws.com may assume, with sqs:SendMessage on the queues.",
            "Register a revision with containerProperties.jobRoleArn.",
            "ContainerProperties: {JobRoleArn: ...}",
        )


@check(
    "batch.timeout",
    "error",
    why="AWS Batch ends a job before its task is done, and the task begins anew, again and again.",
)
def timeout(jobs: LiveJobs) -> Iterator[Found]:
    """Yield that a job has less time than its longest task."""
    limit_s = ((jobs.definition.value or {}).get("timeout") or {}).get("attemptDurationSeconds")
    needed_s = jobs.plan.job_limits_s[jobs.queue.name] + JOB_MARGIN_S
    if limit_s is not None and limit_s < needed_s:
        yield Found(
            f"AWS Batch ends its jobs after {limit_s:,} s.",
            f"{needed_s:,.0f} s or more, the longest hard timeout of its tasks and "
            f"{JOB_MARGIN_S} s to start and to end; or no timeout.",
            "Register a revision with a longer timeout, or without one.",
            f"Timeout: {{AttemptDurationSeconds: {needed_s:.0f}}}",
        )


CHECKS: Final = (job_queue, job_definition, compute_environment, job_role, timeout)


def _takes_jobs(environment: Mapping[str, Any]) -> bool:
    return bool(environment["state"] == "ENABLED" and environment.get("status") != "INVALID")


def _reason(found: Mapping[str, Any]) -> str:
    return found.get("statusReason") or "no reason is given."
