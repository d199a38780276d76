"""Queues of SQS and their dead letters: what is set otherwise than it should be."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..core.aws_values import (
    DEAD_LETTER_RETENTION_S,
    RECEIVE_WAIT_S,
    RETENTION_S,
    VISIBILITY_TIMEOUTS,
    as_texts,
    encryption,
    redrive_allow_policy,
    tls_only_policy,
    visibility_timeout_s,
)
from ..queues.sqs import MAX_MESSAGE_BYTES
from ..queues.sqs_attributes import differences, read
from .aws import Missing, Unreachable
from .facts import DeadLetters, LiveQueue, policy_of
from .findings import Change, Found, check


@check(
    "queue.missing",
    "error",
    why="Calls to it wait in their records, and direct ones fail, until the queue is there.",
)
def missing(queue: LiveQueue) -> Iterator[Found]:
    """Yield that SQS knows no queue of this URL."""
    if isinstance(queue.attributes.error, Missing):
        yield Found(
            f"SQS has no queue {queue.queue.queue_url}.",
            "A queue of this name, in this account and region.",
            f"Create it: manage.py lambda_tasks queues ensure {queue.queue.name}; or correct "
            "LAMBDA_TASKS_QUEUES.",
        )


@check(
    "queue.unreachable",
    "error",
    why="What can't reach SQS sends nothing. A function in a VPC needs an endpoint, or a NAT "
    "gateway.",
)
def unreachable(queue: LiveQueue) -> Iterator[Found]:
    """Yield that SQS has not answered."""
    if isinstance(queue.attributes.error, Unreachable):
        yield Found(
            f"{queue.attributes.error}",
            "An answer of SQS.",
            f"In a VPC, add an interface endpoint com.amazonaws.{queue.region}.sqs whose security "
            "group admits port 443. Elsewhere, look at network, region and credentials.",
        )


@check(
    "queue.visibility_timeout",
    "error",
    why="A message that comes back while its batch still runs counts as a receive, and after a few "
    "of them it is a dead letter.",
)
def visibility(queue: LiveQueue) -> Iterator[Found]:
    """Yield that a message comes back too early."""
    found_s = int(queue.attributes.value["VisibilityTimeout"])
    windows_s = [
        int(each.get("MaximumBatchingWindowInSeconds") or 0) for each in queue.mappings.value
    ]
    pairs = zip(queue.function_timeouts_s.value, windows_s, strict=True)
    needed_s = max((visibility_timeout_s(each) + window for each, window in pairs), default=0)
    if found_s < needed_s:
        yield Found(
            f"The visibility timeout is {found_s} s.",
            f"{needed_s} s or more: {VISIBILITY_TIMEOUTS} times the timeout of the function, and "
            "the batching window.",
            _set(queue, VisibilityTimeout=needed_s),
            f"VisibilityTimeout: {needed_s}",
        )


@check(
    "queue.dead_letters",
    "error",
    why="A message that nobody can read comes back for as long as the queue keeps messages, and "
    "then it is gone without a word.",
)
def dead_letters(queue: LiveQueue) -> Iterator[Found]:
    """Yield that it has no dead-letter queue."""
    if not queue.redrive_policy.get("deadLetterTargetArn"):
        name = queue.plan.dead_letter_name
        arn = f"{queue.queue.arn.rpartition(':')[0]}:{name}"
        policy = {"deadLetterTargetArn": arn, "maxReceiveCount": queue.plan.max_receive_count}
        yield Found(
            "It has no dead-letter queue.",
            f"A redrive policy to {name}.",
            f"manage.py lambda_tasks queues ensure {queue.queue.name}",
            f"RedrivePolicy: {json.dumps(policy)}",
        )


@check(
    "queue.max_receive_count",
    "error",
    why="Throttling, deployments and outages count as receives, too: with fewer, sound tasks "
    "become dead letters.",
)
def receives(queue: LiveQueue) -> Iterator[Found]:
    """Yield that messages are given up too early."""
    policy, needed = queue.redrive_policy, queue.plan.max_receive_count
    found = policy.get("maxReceiveCount")
    if found is not None and int(found) < needed:
        yield Found(
            f"maxReceiveCount is {found}.",
            f"{needed} or more.",
            _set(queue, RedrivePolicy={**policy, "maxReceiveCount": needed}),
            f"RedrivePolicy: {{maxReceiveCount: {needed}, ...}}",
        )


@check(
    "queue.retention",
    "warning",
    why="A message that waits for longer, through an outage over a weekend, is gone; durable ones "
    "are sent again a day later, direct ones are lost.",
)
def retention(queue: LiveQueue) -> Iterator[Found]:
    """Yield that messages are kept for too short."""
    found_s = int(queue.attributes.value["MessageRetentionPeriod"])
    # What is set by hand to SQS's own default of four days is no mistake.
    if found_s < MIN_RETENTION_S:
        yield Found(
            f"Messages are kept for {found_s} s.",
            f"{RETENTION_S} s ({RETENTION_S // 86_400} days), at least {MIN_RETENTION_S} s.",
            _set(queue, MessageRetentionPeriod=RETENTION_S),
            f"MessageRetentionPeriod: {RETENTION_S}",
        )


MIN_RETENTION_S: Final = 4 * 24 * 3600
"""The retention of a queue for which nobody sets any (SetQueueAttributes, Amazon SQS API)."""


@check(
    "queue.dead_letter_retention",
    "warning",
    why="On a standard queue a dead letter is as old as its first send: kept for no longer than "
    "the queue keeps messages, it is gone before anybody looks at it.",
)
def dead_letter_retention(queue: LiveQueue) -> Iterator[Found]:
    """Yield that dead letters are kept for no longer than messages."""
    dead = queue.dead_letters.value
    if dead is None:
        return
    found_s = int(dead.attributes["MessageRetentionPeriod"])
    kept_s = int(queue.attributes.value["MessageRetentionPeriod"])
    if found_s <= kept_s and found_s < DEAD_LETTER_RETENTION_S:
        yield Found(
            f"Dead letters are kept for {found_s} s, messages for {kept_s} s.",
            f"{DEAD_LETTER_RETENTION_S} s ({DEAD_LETTER_RETENTION_S // 86_400} days).",
            _set_dead(queue, dead, MessageRetentionPeriod=DEAD_LETTER_RETENTION_S),
            f"MessageRetentionPeriod: {DEAD_LETTER_RETENTION_S}",
        )


@check(
    "queue.redrive_allow_policy",
    "warning",
    why="Where any queue may send its dead letters here, nobody can tell whose they are; where "
    "this one may not, its dead letters go nowhere.",
)
def allow_policy(queue: LiveQueue) -> Iterator[Found]:
    """Yield that other queues may use its dead-letter queue, or it may not itself."""
    dead = queue.dead_letters.value
    if dead is None:
        return
    policy = policy_of(dead.attributes, "RedriveAllowPolicy")
    permission = policy.get("redrivePermission", "allowAll")
    may_itself = permission == "allowAll" or queue.queue.arn in policy.get("sourceQueueArns", ())
    if permission == "byQueue" and may_itself:
        return
    wanted = redrive_allow_policy(queue.queue.arn)
    wanted["sourceQueueArns"] += policy.get("sourceQueueArns", ())
    change = _set_dead(queue, dead, RedriveAllowPolicy=wanted)
    yield Found(
        "Any queue may use its dead-letter queue."
        if may_itself
        else "Its dead-letter queue refuses its dead letters.",
        "Only this queue may use it, and others that you name.",
        # Others may use it by now: `ensure` asks SQS for them, and names them, too.
        f"manage.py lambda_tasks queues ensure {queue.queue.name}" if may_itself else change,
        f"RedriveAllowPolicy: {json.dumps(wanted)}",
        None if may_itself else "error",
    )


@check(
    "queue.encryption",
    "warning",
    why="Without it, SQS stores the arguments of direct calls as plain text.",
)
def not_encrypted(queue: LiveQueue) -> Iterator[Found]:
    """Yield that messages, or dead letters, are not encrypted at rest."""
    dead = queue.dead_letters.value if queue.redrive_policy else None
    changes = [] if _is_encrypted(queue.attributes.value) else [_set(queue, **encryption())]
    if dead is not None and not _is_encrypted(dead.attributes):
        changes.append(_set_dead(queue, dead, **encryption()))
    for change in changes:
        yield Found(
            f"{change.parameters['QueueUrl']} is not encrypted.",
            "A key of SQS (SqsManagedSseEnabled) or of KMS (KmsMasterKeyId).",
            change,
            "SqsManagedSseEnabled: true",
        )


def _is_encrypted(attributes: Mapping[str, str]) -> bool:
    is_managed = attributes.get("SqsManagedSseEnabled", "").lower() == "true"
    return is_managed or bool(attributes.get("KmsMasterKeyId"))


@check(
    "queue.tls",
    "info",
    why="Without this policy a client may send arguments over a connection that is not encrypted.",
)
def tls(queue: LiveQueue) -> Iterator[Found]:
    """Yield that it may be used without TLS."""
    policy = {"Policy": tls_only_policy(queue.queue.arn)}
    for each in differences(policy, read(queue.attributes.value)):
        yield Found(
            "It may be used without TLS.",
            "A policy that denies every action where aws:SecureTransport is false.",
            # With the statements that are there. A person knows who sends without TLS.
            str(_set(queue, Policy=each.wanted)),
            "See QueuePolicy in the template.",
        )


@check(
    "queue.max_message_size",
    "error",
    why="A call that fits the setting and not the queue is refused by SQS after its commit, again "
    "and again.",
)
def message_size(queue: LiveQueue) -> Iterator[Found]:
    """Yield that the queue takes less than the setting says, or more."""
    found = int(queue.attributes.value.get("MaximumMessageSize", MAX_MESSAGE_BYTES))
    wanted = queue.queue.max_message_bytes
    if found == wanted:
        return
    yield Found(
        f"MaximumMessageSize is {found:,} bytes.",
        f"{wanted:,} bytes, as LAMBDA_TASKS_QUEUES has it.",
        _set(queue, MaximumMessageSize=wanted)
        if found < wanted
        else f'"max_message_bytes": {found} in LAMBDA_TASKS_QUEUES[{queue.queue.name!r}]',
        f"MaximumMessageSize: {wanted}",
        "error" if found < wanted else "info",
    )


@check(
    "queue.receive_wait",
    "info",
    why="Whoever polls with SQS's default of no wait pays for many requests that find nothing.",
)
def receive_wait(queue: LiveQueue) -> Iterator[Found]:
    """Yield that polls are short by default."""
    found_s = int(queue.attributes.value.get("ReceiveMessageWaitTimeSeconds", 0))
    if found_s < RECEIVE_WAIT_S:
        yield Found(
            f"A receive waits for {found_s} s.",
            f"{RECEIVE_WAIT_S} s, a long poll.",
            _set(queue, ReceiveMessageWaitTimeSeconds=RECEIVE_WAIT_S),
            f"ReceiveMessageWaitTimeSeconds: {RECEIVE_WAIT_S}",
        )


@check(
    "queue.delay",
    "warning",
    why="The queue holds back every message for this long, on top of each call's own delay.",
)
def delay(queue: LiveQueue) -> Iterator[Found]:
    """Yield that the queue delays every message."""
    found_s = int(queue.attributes.value.get("DelaySeconds", 0))
    if found_s:
        yield Found(
            f"DelaySeconds is {found_s}.",
            "0: calls say themselves when they are due.",
            _set(queue, DelaySeconds=0),
            "DelaySeconds: 0",
        )


@check(
    "dead_letters.waiting",
    "error",
    why="Each of them is a call that did not run, or that nobody could read.",
)
def waiting_dead_letters(queue: LiveQueue) -> Iterator[Found]:
    """Yield that there are dead letters."""
    dead = queue.dead_letters.value
    number = 0 if dead is None else int(dead.attributes["ApproximateNumberOfMessages"])
    if dead is not None and number:
        yield Found(
            f"About {number:,} messages are in its dead-letter queue.",
            "None.",
            f"Look at them: manage.py lambda_tasks dlq peek {queue.queue.name}. Then send them "
            f"again: manage.py lambda_tasks dlq redrive {queue.queue.name}",
        )


CHECKS: Final = (
    missing, unreachable, visibility, dead_letters, receives, retention, dead_letter_retention,
    allow_policy, not_encrypted, tls, message_size, receive_wait, delay, waiting_dead_letters,
)  # fmt: skip


def _set(queue: LiveQueue, **attributes: Any) -> Change:
    return _change(queue.queue.queue_url, queue.region, attributes)


def _set_dead(queue: LiveQueue, dead: DeadLetters, **attributes: Any) -> Change:
    return _change(dead.url, queue.region, attributes)


def _change(url: str, region: str, attributes: Mapping[str, Any]) -> Change:
    parameters = {"QueueUrl": url, "Attributes": as_texts(attributes)}
    return Change("sqs", "set_queue_attributes", parameters, region)
