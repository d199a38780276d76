"""Amazon SQS, through one aiobotocore client for each region and set of options."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ...core.batching import BatchLimits
from ...core.message import Outgoing
from ...core.signature import SIGNATURE_BYTES, sign
from ...ports import SendFailure
from ..dispatcher import MAX_IN_FLIGHT

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

MAX_MESSAGE_BYTES: Final = 1024 * 1024
"""Of one message and of one request together (quotas, Amazon SQS developer guide)."""

LIMITS: Final = BatchLimits(max_entries=10, max_bytes=MAX_MESSAGE_BYTES - 10 * SIGNATURE_BYTES)

MAX_VISIBILITY_TIMEOUT_S: Final = 12 * 3600

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5

USER_AGENT: Final = "lambda_tasks"
"""A fixed one: botocore would put its own together for every request, a seventh of its cost."""

THROTTLING: Final = frozenset(
    {
        "KmsThrottled",
        "OverLimit",
        "RequestThrottled",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


class SQSClient:
    """An aiobotocore client that is opened at first use, on the loop that uses it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._client: Any = None

    async def call(self, operation: str, **parameters: Any) -> Any:
        """One request. Raises botocore's ClientError and BotoCoreError."""
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._open()
        return await getattr(self._client, operation)(**parameters)

    async def aclose(self) -> None:
        """Close the connections. The client is opened again if it is used again."""
        self._client = None
        await self._stack.aclose()

    async def _open(self) -> Any:
        # Importing and reading the service's description take a while: not on the loop.
        session = await asyncio.to_thread(_new_session)
        from aiobotocore.config import AioConfig

        options = dict(self._options)
        config = AioConfig(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=MAX_IN_FLIGHT,
            # The dispatcher tries again, entry by entry; here a second attempt is for a
            # connection that went stale while the process slept.
            retries={"total_max_attempts": 2, "mode": "standard"},
            parameter_validation=False,
            user_agent=USER_AGENT,
        )
        if "config" in options:
            config = config.merge(options.pop("config"))
        client = session.create_client("sqs", config=config, **options)
        return await self._stack.enter_async_context(client)


class SQSTransport:
    """Sends to one queue, signed where there is a key."""

    limits = LIMITS

    def __init__(self, queue_url: str, client: SQSClient, signing_key: str | None = None) -> None:
        self._queue_url = queue_url
        self._queue = queue_url.rpartition("/")[2]
        self._client = client
        self._signing_key = signing_key
        self._is_fifo = queue_url.endswith(".fifo")

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        """One SendMessageBatch request."""
        from botocore.exceptions import BotoCoreError, ClientError

        entries = [self._entry(str(index), outgoing) for index, outgoing in enumerate(batch)]
        try:
            response = await self._client.call(
                "send_message_batch", QueueUrl=self._queue_url, Entries=entries
            )
        except (ClientError, BotoCoreError) as error:
            return [_request_failure(error)] * len(batch)
        failed = {entry["Id"]: _entry_failure(entry) for entry in response.get("Failed", ())}
        accepted = {entry["Id"] for entry in response.get("Successful", ())}
        return [
            None if entry["Id"] in accepted else failed.get(entry["Id"], _NOT_MENTIONED)
            for entry in entries
        ]

    async def postpone(self, receipt_handle: str, seconds: float) -> None:
        """Make a message that was received visible again in so many seconds."""
        await self._client.call(
            "change_message_visibility",
            QueueUrl=self._queue_url,
            ReceiptHandle=receipt_handle,
            VisibilityTimeout=min(max(0, round(seconds)), MAX_VISIBILITY_TIMEOUT_S),
        )

    def _entry(self, id: str, outgoing: Outgoing) -> dict[str, Any]:
        message = outgoing.message
        body = outgoing.body
        if self._signing_key is not None:
            body = sign(body, key=self._signing_key, queue=self._queue)
        entry: dict[str, Any] = {"Id": id, "MessageBody": body}
        if self._is_fifo:
            # A FIFO queue has one delay for all its messages, and wants a group.
            entry["MessageGroupId"] = message.group_key or message.task_name[:128]
            entry["MessageDeduplicationId"] = str(message.invocation_id)
            return entry
        if outgoing.delay_s:
            entry["DelaySeconds"] = outgoing.delay_s
        if message.group_key is not None:
            entry["MessageGroupId"] = message.group_key
        return entry


def client_options(queue_url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The client's options, with region and endpoint from the queue's URL where none are set."""
    parts = urlsplit(queue_url)
    host = parts.hostname or ""
    derived: dict[str, Any] = {}
    if ".amazonaws.com" in host:
        region = host.removeprefix("sqs.").split(".")[0]
        derived["region_name"] = region
    else:
        derived["endpoint_url"] = f"{parts.scheme}://{parts.netloc}"
    return derived | dict(options)


def _new_session() -> Any:
    from aiobotocore.session import get_session

    session = get_session()
    session.get_component("data_loader").load_service_model("sqs", "service-2")
    return session


_NOT_MENTIONED = SendFailure("the answer does not mention it", retryable=True)


def _entry_failure(entry: Mapping[str, Any]) -> SendFailure:
    reason = f"{entry.get('Code', 'unknown')}: {entry.get('Message', '')}".rstrip(": ")
    return SendFailure(reason, retryable=not entry.get("SenderFault", False))


def _request_failure(error: "ClientError | BotoCoreError") -> SendFailure:
    from botocore.exceptions import ClientError, HTTPClientError

    if not isinstance(error, ClientError):
        return SendFailure(str(error), retryable=isinstance(error, HTTPClientError))
    details = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    code = details.get("Code", "unknown")
    return SendFailure(
        f"{code}: {details.get('Message', '')}".rstrip(": "),
        retryable=status >= 500 or status == 429 or code in THROTTLING,
    )
