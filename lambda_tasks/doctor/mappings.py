"""Event source mappings: how Lambda reads the queues."""

from collections.abc import Iterator
from typing import Final

from .. import conf
from ..core.aws_values import CONCURRENCY, MIN_CONCURRENCY, RESPONSE_TYPE
from .facts import LiveMapping, LiveQueue
from .findings import Change, Found, check


@check(
    "mapping.missing",
    "warning",
    why="Nothing takes messages from the queue, unless a worker does.",
)
def missing(queue: LiveQueue) -> Iterator[Found]:
    """Yield that no function is fed from a queue."""
    if not queue.mappings.value:
        yield Found(
            "No function gets its messages.",
            "One event source mapping, or a worker of this queue.",
            "aws lambda create-event-source-mapping --function-name NAME --event-source-arn "
            f"{queue.queue.arn} --function-response-types {RESPONSE_TYPE} "
            f"--scaling-config MaximumConcurrency={CONCURRENCY} --region {queue.region}",
            "AWS::Lambda::EventSourceMapping",
        )


@check(
    "mapping.duplicate",
    "warning",
    why="Several mappings share the messages among their functions as it happens, and each polls.",
)
def duplicate(queue: LiveQueue) -> Iterator[Found]:
    """Yield that several mappings read one queue."""
    if len(queue.mappings.value) > 1:
        functions = ", ".join(sorted(each["FunctionArn"] for each in queue.mappings.value))
        yield Found(
            f"Several mappings read it: {functions}.",
            "One.",
            "aws lambda delete-event-source-mapping --uuid UUID, for all but one",
        )


@check("mapping.state", "error", why="While it is not enabled, no task of its queue runs.")
def state(mapping: LiveMapping) -> Iterator[Found]:
    """Yield that it is not enabled, or Lambda has a problem with it."""
    found = mapping.mapping.get("State", "")
    result = mapping.mapping.get("LastProcessingResult") or ""
    if found in ("Disabled", "Disabling", "Deleting"):
        yield Found(
            f"Its state is {found}.",
            "Enabled.",
            f"aws lambda update-event-source-mapping --uuid {mapping.id} --enabled "
            f"--region {mapping.function.region}",
            "Enabled: true",
        )
    elif result.startswith("PROBLEM"):
        yield Found(
            f"Lambda says: {result}",
            "Lambda can read the queue and invoke the function.",
            "Give the function's role sqs:ReceiveMessage, sqs:DeleteMessage and "
            "sqs:GetQueueAttributes, and kms:Decrypt for a key of your own.",
        )


@check(
    "mapping.partial_batches",
    "error",
    why="Otherwise one message that goes back takes its whole batch along, and tasks that have "
    "succeeded count a receive.",
)
def partial_batches(mapping: LiveMapping) -> Iterator[Found]:
    """Yield that the function's answer is not read."""
    if RESPONSE_TYPE not in (mapping.mapping.get("FunctionResponseTypes") or ()):
        yield Found(
            f"FunctionResponseTypes lacks {RESPONSE_TYPE}.",
            f"FunctionResponseTypes: [{RESPONSE_TYPE}]",
            _update(mapping, FunctionResponseTypes=[RESPONSE_TYPE]),
            f"FunctionResponseTypes: [{RESPONSE_TYPE}]",
        )


@check(
    "mapping.concurrency",
    "warning",
    why="Lambda starts up to 1,000 functions for a long queue, each with connections to the "
    "database of its own.",
)
def concurrency(mapping: LiveMapping) -> Iterator[Found]:
    """Yield that nothing limits how many batches run at a time."""
    if mapping.batches is None:
        yield Found(
            "Nothing limits how many batches run at a time.",
            f"MaximumConcurrency: {MIN_CONCURRENCY} or more, as many as the database has "
            "connections for.",
            f"aws lambda update-event-source-mapping --uuid {mapping.id} --scaling-config "
            f"MaximumConcurrency={CONCURRENCY} --region {mapping.function.region}",
            f"ScalingConfig: {{MaximumConcurrency: {CONCURRENCY}}}",
        )


@check(
    "mapping.filter",
    "error",
    why="Lambda deletes the messages that its filter leaves out, and no task of theirs runs.",
)
def filters(mapping: LiveMapping) -> Iterator[Found]:
    """Yield that it has a filter."""
    if (mapping.mapping.get("FilterCriteria") or {}).get("Filters"):
        yield Found(
            f"It has a filter: {mapping.mapping['FilterCriteria']['Filters']}.",
            "No filter.",
            f"aws lambda update-event-source-mapping --uuid {mapping.id} --filter-criteria '{{}}' "
            f"--region {mapping.function.region}",
            "Leave out FilterCriteria.",
        )


@check(
    "mapping.batch_size",
    "info",
    why="What can't start at once waits inside of the function, while other functions are idle.",
)
def batch_size(mapping: LiveMapping) -> Iterator[Found]:
    """Yield that a batch has more messages than a function runs at a time."""
    found, at_once = int(mapping.mapping.get("BatchSize") or 0), conf.current().concurrency
    if found > max(at_once, 10):
        yield Found(
            f"A batch has up to {found:,} messages, and a function runs {at_once} async tasks at a "
            "time.",
            f"{max(at_once, 10)} or less.",
            f"aws lambda update-event-source-mapping --uuid {mapping.id} --batch-size "
            f"{max(at_once, 10)} --region {mapping.function.region}",
            f"BatchSize: {max(at_once, 10)}",
        )


QUEUE_CHECKS: Final = (missing, duplicate)

CHECKS: Final = (state, partial_batches, concurrency, filters, batch_size)


def _update(mapping: LiveMapping, **values: object) -> Change:
    parameters = {"UUID": mapping.id, **values}
    return Change("lambda", "update_event_source_mapping", parameters, mapping.function.region)
