"""Each message is verified for the queue that has brought it, whatever others are called alike."""

import time
from typing import Any

import pytest

from lambda_tasks import conf, registry, runtime
from lambda_tasks.core.message import Message
from lambda_tasks.core.signature import Signer
from lambda_tasks.errors import MessageRefused
from lambda_tasks.execution.intake import Intake
from lambda_tasks.execution.turns import Durations, Turns
from lambda_tasks.ports import Delivery
from lambda_tasks.queues import kinds
from lambda_tasks.queues.batch import job_delivery
from lambda_tasks.queues.sqs_deliveries import SqsSource, delivery_of
from lambda_tasks.records.claims import RecordClaims

KEY = "key" * 16
EUROPE = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"
AMERICA = "https://sqs.us-east-1.amazonaws.com/123456789012/jobs"
BATCH = {
    "job_queue_arn": "arn:aws:batch:eu-west-1:123456789012:job-queue/jobs",
    "job_definition_arn": "arn:aws:batch:eu-west-1:123456789012:job-definition/jobs:1",
}
BATCH_IN_AMERICA = {name: arn.replace("eu-west", "us-east") for name, arn in BATCH.items()}
CALL = '{"task_name":"tests.app.tasks.add_direct","kwargs":{"a":1}}'


def read(delivery: Delivery) -> Message:
    turns = Turns(Durations(), lanes=1, processes=1)
    here = runtime.current()
    intake = Intake(
        RecordClaims(),
        conf.current,
        registry.resolve,
        turns,
        limits=here.limits,
        lock=here.locks,
    )
    return intake._read(delivery)[1]


def signed_for(queue: str) -> str:
    return Signer(KEY, conf.current().queue(queue).audience).sign(CALL, now=time.time())


def polled_from(queue: str, body: str) -> Delivery:
    queues = [conf.current().queue(queue)]
    (source,) = kinds.make_sources(queues, runtime.current(), once=True)
    assert isinstance(source, SqsSource)
    return source._receive_one({"MessageId": "1", "ReceiptHandle": "r", "Body": body})


def use(settings: Any, queues: dict[str, Any]) -> None:
    settings.LAMBDA_TASKS_QUEUES = queues
    settings.LAMBDA_TASKS_SIGNING_KEYS = [KEY]


def test_a_worker_tells_queues_of_one_name_in_two_regions(settings: Any) -> None:
    use(settings, {"default": EUROPE, "america": AMERICA})

    for name, other in (("default", "america"), ("america", "default")):
        assert read(polled_from(name, signed_for(name))).kwargs == {"a": 1}
        with pytest.raises(MessageRefused, match="is not for the queue"):
            read(polled_from(name, signed_for(other)))


@pytest.mark.parametrize("names", [("default", "heavy"), ("heavy", "default")])
def test_sqs_and_aws_batch_may_have_queues_of_one_name(
    settings: Any, names: tuple[str, str]
) -> None:
    queues = {"default": EUROPE, "heavy": BATCH}
    use(settings, {name: queues[name] for name in names})

    read(polled_from("default", signed_for("default")))
    read(job_delivery(signed_for("heavy"), job_id="1", job_queue="jobs"))


def test_job_queues_of_one_name_are_read_in_each_region(settings: Any) -> None:
    use(settings, {"default": EUROPE, "heavy": BATCH, "america": BATCH_IN_AMERICA})

    for name in ("heavy", "america"):
        read(job_delivery(signed_for(name), job_id="1", job_queue="jobs"))


def test_a_queue_may_stand_in_the_settings_by_two_urls(settings: Any) -> None:
    use(settings, {"default": "https://queues.example/123456789012/jobs", "direct": EUROPE})
    arn = "arn:aws:sqs:eu-west-1:123456789012:jobs"

    for name in ("default", "direct"):
        read(delivery_of("1", signed_for(name), {}, source=arn))


def test_a_url_may_end_with_a_slash(settings: Any) -> None:
    use(settings, {"default": f"{EUROPE}/"})

    read(polled_from("default", signed_for("default")))
    read(
        delivery_of(
            "1", signed_for("default"), {}, source="arn:aws:sqs:eu-west-1:123456789012:jobs"
        )
    )
