"""What the way to SQS makes of a queue's URL, of options and of answers."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from lambda_tasks import runtime
from lambda_tasks.core.message import Message, Outgoing
from lambda_tasks.local import LocalSqs
from lambda_tasks.ports import SendFailure
from lambda_tasks.queues.aws.client import AwsClient
from lambda_tasks.queues.sqs import SQSQueue, SQSTransport, client_options
from tests.app import tasks
from tests.conftest import bodies_in


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("sqs.eu-west-1.amazonaws.com", {"region_name": "eu-west-1"}),
        ("sqs.cn-north-1.amazonaws.com.cn", {"region_name": "cn-north-1"}),
        ("sqs.us-gov-west-1.amazonaws.com", {"region_name": "us-gov-west-1"}),
        ("eu-central-1.queue.amazonaws.com", {"region_name": "eu-central-1"}),
        ("queue.amazonaws.com", {"region_name": "us-east-1"}),
        ("sqs-fips.us-east-1.amazonaws.com", {"region_name": "us-east-1", "endpoint_url": ...}),
        ("sqs.us-east-1.api.aws", {"region_name": "us-east-1", "endpoint_url": ...}),
        (
            "vpce-0abc-xyz.sqs.eu-west-1.vpce.amazonaws.com",
            {"region_name": "eu-west-1", "endpoint_url": ...},
        ),
        ("127.0.0.1:4566", {"endpoint_url": ...}),
    ],
)
def test_region_and_endpoint_come_from_the_queues_url(host: str, options: Any) -> None:
    if "endpoint_url" in options:
        options = options | {"endpoint_url": f"https://{host}"}

    assert client_options(f"https://{host}/123456789012/default", {}) == options
    own = {"region_name": "mine", "endpoint_url": "http://mine"}
    assert client_options(f"https://{host}/123456789012/default", own) == own


@pytest.mark.django_db(transaction=True)
def test_options_that_are_none_are_left_to_the_environment(
    queue: str, sqs: LocalSqs, settings: Any, monkeypatch: Any
) -> None:
    runtime.close()
    for name, value in sqs.client_options.items():
        if name.startswith("aws_"):
            monkeypatch.setenv(name.upper(), value)
            settings.LAMBDA_TASKS_AWS = settings.LAMBDA_TASKS_AWS | {name: None}

    tasks.add_direct.execute_on_commit(a=1)

    assert len(bodies_in(sqs, queue)) == 1


class PlayedClient:
    """Answers as some emulator might."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer
        self.parameters: list[dict[str, Any]] = []

    async def call(self, operation: str, **parameters: Any) -> Any:
        self.parameters.append(parameters)
        return self._answer


@pytest.mark.parametrize("empty", [{}, {"Failed": None}, {"Failed": []}])
def test_what_is_accepted_is_so_however_the_rest_is_left_out(empty: dict[str, Any]) -> None:
    failures = sent(PlayedClient({"Successful": [{"Id": "0"}], **empty}))

    assert failures == [None]


@pytest.mark.parametrize("answer", [{}, {"Successful": None}, {"Successful": [{"Id": "7"}]}])
def test_what_the_answer_does_not_mention_may_yet_be_accepted(answer: dict[str, Any]) -> None:
    (failure,) = sent(PlayedClient(answer))

    assert failure == SendFailure("the response does not mention the message", retryable=True)


def test_what_is_held_for_less_than_a_second_does_not_come_back_at_once() -> None:
    client: Any = PlayedClient({})
    queue = SQSQueue("default", "https://sqs.eu-west-1.amazonaws.com/1/default")
    wiring: Any = SimpleNamespace(aws_options={}, client=lambda service, options, **rest: client)

    asyncio.run(queue.postpone(wiring, "handle", 0.2))

    assert client.parameters[0]["VisibilityTimeout"] == 1


def sent(client: Any) -> Sequence[SendFailure | None]:
    message = Message(task_name="f", kwargs={}, invocation_id=uuid4())
    transport = SQSTransport("https://sqs.eu-west-1.amazonaws.com/1/default", client)
    return asyncio.run(transport.send([Outgoing(message, "{}", "default")]))


def test_a_client_that_was_closed_is_opened_again_on_another_loop(sqs: LocalSqs) -> None:
    client = AwsClient("sqs", sqs.client_options)

    async def use() -> None:
        await asyncio.gather(*(client.call("list_queues") for _ in range(3)))
        await client.aclose()

    asyncio.run(use())
    asyncio.run(use())
