"""Functions that consume queues, and their logs."""

from collections.abc import Iterator
from typing import Final

from ..core.aws_values import LOG_RETENTION_DAYS, MEMORY_MB
from .aws import Missing
from .facts import LiveFunction
from .findings import Change, Found, check

UNPUBLISHED: Final = ("", "$LATEST")
"""The qualifiers of a function's code that is not published as a version."""


@check("function.missing", "error", why="Its queues' messages wait until there is a function.")
def missing(function: LiveFunction) -> Iterator[Found]:
    """Yield that Lambda knows no such function."""
    if isinstance(function.configuration.error, Missing):
        yield Found(
            f"Lambda has no function {function.arn}.",
            "The function that the event source mapping names.",
            "Deploy the function, or correct the mapping.",
        )


@check("function.state", "error", why="Until then Lambda can't run it, or runs the code before.")
def state(function: LiveFunction) -> Iterator[Found]:
    """Yield that it can't run, or its last update has failed."""
    configuration = function.configuration.value
    if configuration.get("State") == "Failed":
        reason = configuration.get("StateReason") or "no reason is given"
        yield Found(
            f"Its state is Failed: {reason}.",
            "Active.",
            "Correct what the reason names, and deploy again.",
        )
    if configuration.get("LastUpdateStatus") == "Failed":
        yield Found(
            f"Its last update has failed: {configuration.get('LastUpdateStatusReason')}.",
            "A successful update.",
            "Correct what the reason names, and deploy again.",
        )


@check(
    "function.timeout",
    "error",
    why="A task that needs longer than an event has is interrupted and repeated, again and again.",
)
def timeout(function: LiveFunction) -> Iterator[Found]:
    """Yield that it has less time than its longest task."""
    found_s, needed_s = (
        int(function.configuration.value["Timeout"]),
        function.plan.function_timeout_s,
    )
    if found_s < needed_s:
        yield Found(
            f"Its timeout is {found_s} s.",
            f"{needed_s} s or more: the longest hard timeout, and the time to write its end.",
            f"First raise the queues' visibility timeouts. Then: aws lambda "
            f"update-function-configuration --function-name {function.name} --timeout {needed_s} "
            f"--region {function.region}",
            f"Timeout: {needed_s}",
        )


@check(
    "function.memory",
    "info",
    why="With less than one whole CPU, tasks that compute take longer and cost the same.",
)
def memory(function: LiveFunction) -> Iterator[Found]:
    """Yield that it has less than one CPU."""
    found = int(function.configuration.value["MemorySize"])
    if found < MEMORY_MB:
        yield Found(
            f"It has {found} MB.",
            f"{MEMORY_MB} MB, which is one CPU.",
            f"aws lambda update-function-configuration --function-name {function.name} "
            f"--memory-size {MEMORY_MB} --region {function.region}",
            f"MemorySize: {MEMORY_MB}",
        )


@check(
    "function.reserved_concurrency",
    "error",
    why="A poll that is throttled counts as a receive: sound tasks become dead letters.",
)
def reserved(function: LiveFunction) -> Iterator[Found]:
    """Yield that its mappings may ask for more functions than are reserved for it."""
    found, batches = function.reserved.value, function.batches.value
    if found is None or (batches is not None and batches < found):
        return
    asked = "any number" if batches is None else f"{batches}"
    yield Found(
        f"Its reserved concurrency is {found}, and its mappings ask for {asked} at a time.",
        "None, or more than all its mappings together and the tick.",
        f"aws lambda delete-function-concurrency --function-name {function.name} "
        f"--region {function.region}",
        "Leave out ReservedConcurrentExecutions; set MaximumConcurrency on the mapping.",
    )


@check(
    "function.recursive_loop",
    "warning",
    why="A task that calls itself without end, by mistake, runs and costs without end. Retries and "
    "Continue are not counted as a loop.",
)
def recursive_loop(function: LiveFunction) -> Iterator[Found]:
    """Yield that Lambda lets it invoke itself without end."""
    if function.recursive_loop.value != "Terminate":
        parameters = {"FunctionName": function.name, "RecursiveLoop": "Terminate"}
        yield Found(
            f"RecursiveLoop is {function.recursive_loop.value}.",
            "Terminate, Lambda's default.",
            # A project may need its loop: a person decides.
            str(Change("lambda", "put_function_recursion_config", parameters, function.region)),
            "RecursiveLoop: Terminate",
        )


@check(
    "function.snap_start",
    "warning",
    why="Lambda restores snapshots of published versions only: each cold start of this one is as "
    "long as without SnapStart.",
)
def snap_start(function: LiveFunction) -> Iterator[Found]:
    """Yield that SnapStart is on, and mappings invoke the unpublished code."""
    applied = (function.configuration.value.get("SnapStart") or {}).get("ApplyOn", "None")
    if applied == "PublishedVersions" and function.qualifier in UNPUBLISHED:
        yield Found(
            "SnapStart is on, and the mapping invokes $LATEST.",
            "A mapping to an alias of a published version.",
            f"aws lambda publish-version --function-name {function.name}, then an alias of it, "
            "and update-event-source-mapping --function-name with the alias's ARN",
            "manage.py lambda_tasks template sam --snapstart",
        )


@check(
    "logs.retention", "warning", why="CloudWatch keeps logs for ever otherwise, and charges for it."
)
def log_retention(function: LiveFunction) -> Iterator[Found]:
    """Yield that its log is kept for ever."""
    group = function.log_group.value
    if group is None or group.get("retentionInDays"):
        return
    parameters = {"logGroupName": group["logGroupName"], "retentionInDays": LOG_RETENTION_DAYS}
    yield Found(
        f"The log {group['logGroupName']} is kept for ever.",
        f"A retention, such as {LOG_RETENTION_DAYS} days.",
        # Not by itself: it deletes what is older.
        str(Change("logs", "put_retention_policy", parameters, function.region)),
        f"RetentionInDays: {LOG_RETENTION_DAYS}",
    )


@check(
    "logs.missing",
    "warning",
    why="Without a log nobody sees why a cold start fails. Lambda makes one at the first line if "
    "the role allows it, and keeps it for ever.",
)
def log_missing(function: LiveFunction) -> Iterator[Found]:
    """Yield that it has no log."""
    if function.log_group.value is None:
        yield Found(
            "It has no log group.",
            f"A log group with a retention of {LOG_RETENTION_DAYS} days.",
            f"aws logs create-log-group --log-group-name /aws/lambda/{function.name} "
            f"--region {function.region}, and AWSLambdaBasicExecutionRole for the role",
            "AWS::Logs::LogGroup",
        )


CHECKS: Final = (
    missing, state, timeout, memory, reserved, recursive_loop, snap_start, log_retention,
    log_missing,
)  # fmt: skip
