"""Amazon SQS queues."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Self, TypeGuard
from urllib.parse import urlsplit

from ..core.batching import BatchLimits
from ..core.lifecycle import FIFO_TERMS, SQS_TERMS, LookTerms, visibility_timeout_s
from ..core.message import Message, Outgoing, check_size
from ..core.signature import SIGNATURE_BYTES, Signer
from ..ports import SendFailure, Source
from .aws.client import AwsClient
from .aws.errors import RequestFailed, failure_of_entry
from .base import MAX_LAMBDA_TIMEOUT_S, Queue, Wiring, setting_error
from .sqs_deliveries import LONG_POLL_S, SHORT_POLL_S, SqsSource, is_fifo

MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""The most bytes of one message, and of a whole request (quotas, Amazon SQS developer guide)."""

MESSAGE_BYTES: Final = range(1024, MAX_MESSAGE_BYTES + 1)
"""The values of MaximumMessageSize (SetQueueAttributes, Amazon SQS API reference)."""

REGION_PATTERN: Final = re.compile(r"(?:^|\.)sqs(?:-fips)?\.([a-z]+(?:-[a-z]+)+-\d+)\.")
USUAL_HOST_PATTERN: Final = re.compile(r"sqs\.[^.]+\.amazonaws\.com(\.cn)?")
LEGACY_HOST_PATTERN: Final = re.compile(r"(?:([a-z0-9-]+)\.)?queue\.amazonaws\.com")
LEGACY_REGION: Final = "us-east-1"
"""The region of legacy hosts ("Amazon SQS endpoints and quotas", AWS General Reference).

A host that is neither usual nor legacy (FIPS, dual stack, a VPC endpoint) becomes the client's
endpoint itself.
"""

PARTITIONS: Final = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
"""The partitions of ARNs by how their regions begin; others are "aws" (AWS General Reference)."""

ACCOUNT_PATTERN: Final = re.compile(r"\d{12}")

TRACE_HEADERS: Final = ("traceparent", "tracestate")
"""The headers that go along as attributes, too, where others read them (W3C Trace Context)."""

MAX_TRACE_CHARS: Final = 512
"""The longest of these that goes along: the specification asks to carry as much of them."""

TRACE_BYTES: Final = sum(len(name) + len("String") + MAX_TRACE_CHARS for name in TRACE_HEADERS)
"""The most bytes of these attributes, which count as the message's (quotas of Amazon SQS)."""

SQS_BATCH_LIMITS: Final = BatchLimits(
    max_entries=10, max_bytes=MAX_MESSAGE_BYTES - 10 * (SIGNATURE_BYTES + TRACE_BYTES)
)


@dataclass(frozen=True, slots=True)
class SQSQueue(Queue):
    """A queue of Amazon SQS, which a Lambda function or a worker consumes."""

    queue_url: str
    """The URL of the queue. A name that ends with `.fifo` means a FIFO queue."""
    max_timeout_s: float = field(default=MAX_LAMBDA_TIMEOUT_S, kw_only=True)
    max_message_bytes: int = field(default=MAX_MESSAGE_BYTES, kw_only=True)
    """The queue's attribute MaximumMessageSize, from MESSAGE_BYTES."""

    @property
    def look_terms(self) -> LookTerms:
        """See Queue."""
        return FIFO_TERMS if is_fifo(self.queue_url) else SQS_TERMS

    @classmethod
    def parse(cls, setting: str, name: str, value: object) -> Self | None:
        """See Queue."""
        match value:
            case str(url):
                max_message_bytes: object = MAX_MESSAGE_BYTES
            case {"queue_url": str(url), **rest} if rest.keys() <= {"max_message_bytes"}:
                max_message_bytes = rest.get("max_message_bytes", MAX_MESSAGE_BYTES)
            case _:
                return None
        if (fix := _mistake_in_url(url)) is not None:
            raise setting_error(setting, url, fix)
        if not _is_size(max_message_bytes):
            fix = (
                "max_message_bytes is the queue's MaximumMessageSize: a whole number from "
                f"{MESSAGE_BYTES.start:,} to {MAX_MESSAGE_BYTES:,}."
            )
            raise setting_error(setting, value, fix)
        return cls(name, url, max_message_bytes=max_message_bytes)

    def make_transport(self, wiring: Wiring) -> "SQSTransport":
        """See Queue."""
        client = self.client(wiring)
        return SQSTransport(
            self.queue_url,
            client,
            wiring.signer(self.audience),
            follow_ups=self.client(wiring, has_lineage=False)
            if "AWS_LAMBDA_FUNCTION_NAME" in os.environ
            else client,
        )

    def make_source(self, wiring: Wiring, *, once: bool) -> Source:
        """See Queue."""
        wait_s = SHORT_POLL_S if once else LONG_POLL_S
        return SqsSource(
            self.queue_url,
            self.client(wiring),
            polls=self.client(wiring, waits_s=wait_s),
            wait_s=wait_s,
            arn=self.arn,
        )

    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """See Queue."""
        limit = self.max_message_bytes - (SIGNATURE_BYTES if is_signed else 0)
        if message.headers and _trace_attributes(message):
            limit -= TRACE_BYTES
        check_size(body, task_name=message.task_name, limit_bytes=limit)

    @property
    def audience(self) -> str:
        """See Queue."""
        return "/".join(_identity(self.queue_url))

    @property
    def queue_name(self) -> str:
        """The queue's name in SQS."""
        return _identity(self.queue_url)[2]

    @property
    def arn(self) -> str:
        """The queue's ARN. For parts that the URL lacks, it has the values of a local SQS."""
        region, account, name = _identity(self.queue_url)
        region = region or LEGACY_REGION
        partition = next((p for start, p in PARTITIONS.items() if region.startswith(start)), "aws")
        return f"arn:{partition}:sqs:{region}:{account or '0' * 12}:{name}"

    @property
    def source(self) -> str:
        """See Queue."""
        return self.arn

    @property
    def is_in_aws(self) -> bool:
        """See Queue."""
        return True

    def sibling_url(self, name: str) -> str:
        """Return the URL of another queue of the same account and region."""
        return f"{self.queue_url.rstrip('/').rpartition('/')[0]}/{name}"

    def is_fed_by(self, source: str) -> bool:
        """See Queue. Compares region and account only if both the ARN and the URL have them."""
        *_, region, account, name = ("", "", *source.split(":"))
        queue_region, queue_account, queue_name = _identity(self.queue_url)
        return (
            name == queue_name
            and (not (region and queue_region) or region == queue_region)
            and (not (account and queue_account) or account == queue_account)
        )

    async def postpone(self, wiring: Wiring, receipt_handle: str, seconds: float) -> None:
        """See Queue."""
        await self.client(wiring).call(
            "change_message_visibility",
            QueueUrl=self.queue_url,
            ReceiptHandle=receipt_handle,
            VisibilityTimeout=visibility_timeout_s(seconds),
        )

    def client(self, wiring: Wiring, *, waits_s: float = 0, has_lineage: bool = True) -> AwsClient:
        """Return the client for the queue's region and address."""
        region = _region(urlsplit(self.queue_url).hostname or "")
        derived = {} if region is None else {"region_name": region}
        return wiring.client(
            "sqs",
            derived | dict(wiring.aws_options),
            default_endpoint_url=_endpoint_url(self.queue_url),
            waits_s=waits_s,
            has_lineage=has_lineage,
        )


class SQSTransport:
    """A transport to one SQS queue. A signer, if given, signs each message.

    `follow_ups` is the client for messages that follow from a run.
    """

    def __init__(
        self,
        queue_url: str,
        client: AwsClient,
        signer: Signer | None = None,
        *,
        follow_ups: AwsClient | None = None,
    ) -> None:
        self._queue_url = queue_url
        self._follow_ups = follow_ups or client
        self._client = client
        self._signer = signer
        self._is_fifo = is_fifo(queue_url)
        self.limits = replace(SQS_BATCH_LIMITS, in_order=self._is_fifo)

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """See ports.Transport. Sends one SendMessageBatch request.

        All messages of a batch are follow-ups, or none is.
        """
        client = self._follow_ups if batch and batch[0].is_follow_up else self._client
        entries = [self._entry(str(index), outgoing) for index, outgoing in enumerate(batch)]
        try:
            response = await client.call(
                "send_message_batch", QueueUrl=self._queue_url, Entries=entries
            )
        except RequestFailed as error:
            return [error.failure] * len(batch)
        # Either list may be missing where it is empty, and some emulators send null.
        failures: dict[str, SendFailure | None] = {
            entry["Id"]: failure_of_entry(entry) for entry in response.get("Failed") or ()
        }
        failures |= dict.fromkeys(entry["Id"] for entry in response.get("Successful") or ())
        return [failures.get(entry["Id"], _NOT_MENTIONED) for entry in entries]

    def _entry(self, id: str, outgoing: Outgoing) -> dict[str, Any]:
        message = outgoing.message
        body = outgoing.body
        if self._signer is not None:
            body = self._signer.sign(body, now=time.time())
        entry: dict[str, Any] = {"Id": id, "MessageBody": body}
        if message.headers and (attributes := _trace_attributes(message)):
            entry["MessageAttributes"] = attributes
        if self._is_fifo:
            # A FIFO queue refuses a delay for a single message, and requires a group.
            entry["MessageGroupId"] = message.group
            entry["MessageDeduplicationId"] = str(message.invocation_id)
            return entry
        if outgoing.delay_s and (delay_s := _delay_left_s(outgoing)):
            entry["DelaySeconds"] = delay_s
        if message.group_key is not None:
            entry["MessageGroupId"] = message.group_key
        return entry


def _trace_attributes(message: Message) -> dict[str, Any]:
    """Return the message attributes with the trace of a call, for those who read no bodies."""
    return {
        name: {"DataType": "String", "StringValue": value}
        for name in TRACE_HEADERS
        if isinstance(value := message.headers.get(name), str)
        and 0 < len(value) <= MAX_TRACE_CHARS
        and value.isascii()
        and value.isprintable()
    }


def _delay_left_s(outgoing: Outgoing) -> int:
    """Return the delay; where the message is due at a time, what is left of it by now.

    A message may be sent a while after its call: in the background, or when SQS answers again.
    """
    due = outgoing.message.run_after
    if due is None:
        return outgoing.delay_s
    left_s = round((due - datetime.now(UTC)).total_seconds())
    return min(outgoing.delay_s, max(left_s, 0))


@lru_cache(maxsize=256)
def _identity(queue_url: str) -> tuple[str, str, str]:
    """Return a queue's region, account and name; "" for the region or account if unknown."""
    parts = urlsplit(queue_url)
    *_, account, name = ("", *parts.path.rstrip("/").split("/"))
    return (
        _region(parts.hostname or "") or "",
        account if ACCOUNT_PATTERN.fullmatch(account) else "",
        name,
    )


def _region(host: str) -> str | None:
    match = REGION_PATTERN.search(host) or LEGACY_HOST_PATTERN.fullmatch(host)
    return (match[1] or LEGACY_REGION) if match else None


def _endpoint_url(queue_url: str) -> str | None:
    """Return the address of a host that botocore does not derive from the region, else None."""
    parts = urlsplit(queue_url)
    host = parts.hostname or ""
    if USUAL_HOST_PATTERN.fullmatch(host) or LEGACY_HOST_PATTERN.fullmatch(host):
        return None
    return f"{parts.scheme}://{parts.netloc}"


_NOT_MENTIONED = SendFailure("the response does not mention the message", retryable=True)


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value in MESSAGE_BYTES


def _mistake_in_url(url: str) -> str | None:
    """Return the fix of a text that is no queue URL; None for a queue URL."""
    if url.split() != [url]:
        # urlsplit() would overlook line breaks, which come from files of environment variables.
        return "Remove the white space."
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.netloc and parts.path.strip("/"))
    except ValueError:
        is_url = False
    return None if is_url else "An SQS queue URL looks like https://sqs.REGION.amazonaws.com/..."
