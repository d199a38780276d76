"""SQS queues in AWS, compared with a plan, and made as it says. Nothing is ever deleted."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ..core.aws_values import (
    QueuePlan,
    as_texts,
    tls_only_policy,
)
from .aws.client import AwsClient
from .aws.errors import RequestFailed
from .base import Wiring
from .sqs import SQSQueue
from .sqs_attributes import (
    Attributes,
    Difference,
    dead_letter_target,
    differences,
    kms_key,
    read,
)

MISSING_CODES: Final = frozenset(
    {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "QueueDoesNotExistException"}
)
"""The codes of a queue that does not exist, in the protocols of SQS."""

COUNTS: Final = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}
"""The attributes that count messages."""

MAX_PAGE: Final = 1000
"""The most queues of one answer (ListDeadLetterSourceQueues, Amazon SQS API reference)."""

MAX_SOURCES: Final = 10
"""The most queues in a RedriveAllowPolicy (SetQueueAttributes, Amazon SQS API reference)."""

NEW_POLL_S: Final = 1.0
"""Seconds that a new queue needs before it can be used (CreateQueue, Amazon SQS API reference)."""

MAX_NEW_POLLS: Final = 10

NEEDS_ARN: Final = frozenset({"RedrivePolicy", "RedriveAllowPolicy", "Policy"})
"""The attributes that name queues by their ARNs. A new queue gets them when its ARN is known."""


class QueueElsewhere(Exception):
    """The credentials are of another account than the queue's URL in the settings."""


@dataclass(frozen=True, slots=True)
class LiveQueue:
    """A queue in SQS as it is, and what differs from its plan."""

    name: str
    """The queue's name in SQS."""
    url: str
    arn: str
    """The queue's ARN; for one that does not exist, the one that it would have."""
    attributes: Attributes | None
    """Its attributes; None where it does not exist."""
    is_dead_letters: bool
    """Whether it is the dead-letter queue of another one."""
    differences: list[Difference] = field(default_factory=list)
    """The attributes that are not as recommended; all of them, where it does not exist."""

    @property
    def counts(self) -> dict[str, int] | None:
        """The messages in it, which SQS counts approximately; None where it does not exist."""
        if self.attributes is None:
            return None
        return {name: int(self.attributes.get(each) or 0) for name, each in COUNTS.items()}


class LivePair(NamedTuple):
    """A queue in SQS, and its dead-letter queue."""

    dead_letters: LiveQueue
    queue: LiveQueue


async def read_attributes(client: AwsClient, url: str) -> dict[str, Any] | None:
    """Return a queue's attributes as JSON values; None for a queue that does not exist."""
    try:
        answer = await client.call("get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
    except RequestFailed as error:
        if error.code in MISSING_CODES:
            return None
        raise
    return read(answer["Attributes"])


async def look_at(
    queue: SQSQueue, plan: QueuePlan, wiring: Wiring, created: Collection[str] = ()
) -> LivePair:
    """Return a queue and its dead-letter queue as they are, with what differs from the plan.

    `created` has the URLs of queues that nobody else can use yet. Raises RequestFailed where AWS
    refuses it or can't be reached.
    """
    client = queue.client(wiring)
    live = await read_attributes(client, queue.queue_url)
    arn = _arn(live, queue.arn)
    target = dead_letter_target(live or {}) or sibling_arn(arn, plan.dead_letter_name)
    name = target.rpartition(":")[2]
    url = queue.sibling_url(name)
    dead = await read_attributes(client, url)
    dead_arn = _arn(dead, target)
    wanted, wanted_dead = wanted_attributes(plan, arn, live, dead_arn, dead)
    if dead is not None and not names_its_sources(dead) and url not in created:
        # Others may use this queue, too: with a policy that leaves them out, they could not.
        names = await _sources(client, url)
        sources = dict.fromkeys([arn, *(sibling_arn(arn, each) for each in names)])
        if len(sources) > MAX_SOURCES:
            del wanted_dead["RedriveAllowPolicy"]
        else:
            wanted_dead["RedriveAllowPolicy"] |= {"sourceQueueArns": list(sources)}
    return LivePair(
        _live(name, url, dead_arn, dead, wanted_dead, is_dead_letters=True),
        _live(plan.name, queue.queue_url, arn, live, wanted, is_dead_letters=False),
    )


def wanted_attributes(
    plan: QueuePlan, arn: str, live: Attributes | None, dead_arn: str, dead: Attributes | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the attributes that a queue and its dead-letter queue should have.

    `live` and `dead` are those that they have; a KMS key that is chosen there stays.
    """
    key, dead_key = kms_key(live or {}), kms_key(dead or {})
    wanted = {**plan.attributes(dead_arn, kms_key=key), "Policy": tls_only_policy(arn)}
    wanted_dead = {
        **plan.dead_letter_attributes(arn, kms_key=dead_key),
        "Policy": tls_only_policy(dead_arn),
    }
    return wanted, wanted_dead


def names_its_sources(dead: Attributes) -> bool:
    """Return whether a dead-letter queue says whose dead letters it takes."""
    return (dead.get("RedriveAllowPolicy") or {}).get("redrivePermission") == "byQueue"


def sibling_arn(arn: str, name: str) -> str:
    """Return the ARN of another queue in the same account and region."""
    return f"{arn.rpartition(':')[0]}:{name}"


async def make_right(queue: SQSQueue, plan: QueuePlan, wiring: Wiring) -> None:
    """Create what is missing of a queue and its dead letters, and set what differs.

    The dead-letter queue is first, as the queue names it. What was cut off in the middle is done by
    the next call. Raises RequestFailed, and QueueElsewhere.
    """
    client = queue.client(wiring)
    missing = [each for each in await look_at(queue, plan, wiring) if each.attributes is None]
    for live in missing:
        await _create(client, live)
    for live in missing:
        await _wait_for(client, live.url)
    # Once more: a new queue has defaults, and its true ARN.
    created = {each.url for each in missing}
    for live in await look_at(queue, plan, wiring, created):
        if live.differences:
            wanted = {each.attribute: each.wanted for each in live.differences}
            await client.call(
                "set_queue_attributes", QueueUrl=live.url, Attributes=as_texts(wanted)
            )


async def _create(client: AwsClient, live: LiveQueue) -> None:
    attributes = {
        each.attribute: each.wanted for each in live.differences if each.attribute not in NEEDS_ARN
    }
    answer = await client.call("create_queue", QueueName=live.name, Attributes=as_texts(attributes))
    created, wanted = _account(answer["QueueUrl"]), _account(live.url)
    if created != wanted:
        raise QueueElsewhere(
            f"{live.url} is not there, and a queue of its name was created in another account: "
            f"{answer['QueueUrl']}. These credentials are of that account; correct them or the "
            "URL, and delete the new queue if nobody wants it."
        )


async def _wait_for(client: AwsClient, url: str) -> None:
    """Wait until SQS knows a new queue; what comes next tells if it never does."""
    for _ in range(MAX_NEW_POLLS):
        if await read_attributes(client, url) is not None:
            return
        await asyncio.sleep(NEW_POLL_S)


def _account(url: str) -> str:
    return url.rstrip("/").split("/")[-2]


def _live(
    name: str,
    url: str,
    arn: str,
    attributes: Attributes | None,
    wanted: dict[str, Any],
    *,
    is_dead_letters: bool,
) -> LiveQueue:
    different = differences(wanted, attributes or {})
    return LiveQueue(name, url, arn, attributes, is_dead_letters, different)


async def _sources(client: AwsClient, url: str) -> Iterable[str]:
    """Return the names of the queues whose dead letters go to this one."""
    names: list[str] = []
    page: dict[str, Any] = {"MaxResults": MAX_PAGE}
    while True:
        answer = await client.call("list_dead_letter_source_queues", QueueUrl=url, **page)
        names += [each.rpartition("/")[2] for each in answer.get("queueUrls") or ()]
        if not (token := answer.get("NextToken")):
            return dict.fromkeys(names)
        page["NextToken"] = token


def _arn(live: Attributes | None, expected: str) -> str:
    return str((live or {}).get("QueueArn", expected))
