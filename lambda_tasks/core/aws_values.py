"""How the resources of a deployment on AWS should be set, and why.

The template sets these values, `queues` makes queues by them, and `doctor` compares what there is
with them. docs/terraform.md shows them, too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .retries import MAX_DELAY_S

# The function.

FUNCTION_MARGIN_S: Final = 3.0
"""Seconds that a function needs beside a task's own time: to write its record, and to answer."""

JOB_MARGIN_S: Final = 60
"""Seconds that a job of AWS Batch needs beside its task's own time: its container loads the project
first, and writes the record in the end."""

MEMORY_MB: Final = 1769
"""One whole vCPU (Configure Lambda function memory, AWS Lambda developer guide). With less, a task
that computes takes longer and costs the same."""

VISIBLE_CPUS: Final = 2
"""The CPUs that a function of MEMORY_MB sees, and so its worker processes by default. It gets the
time of one."""

ARCHITECTURE: Final = "arm64"
"""A fifth cheaper than x86_64 for each second (AWS Lambda pricing)."""

LOG_RETENTION_DAYS: Final = 30
"""By default CloudWatch keeps logs for ever, and charges for it."""

# Queues.

VISIBILITY_TIMEOUTS: Final = 6
"""The visibility timeout, in function timeouts (Using Lambda with Amazon SQS, AWS Lambda developer
guide): nothing comes back while it runs, or while Lambda tries a throttled batch again."""

RETENTION_S: Final = 7 * 24 * 3600
"""How long a queue keeps messages: through a long weekend without a working function."""

DEAD_LETTER_RETENTION_S: Final = 14 * 24 * 3600
"""How long dead letters are kept, the longest that SQS allows. On a standard queue their time
counts from the first send, so even after a week in the queue, a week is left to look at them."""

RECEIVE_WAIT_S: Final = 20
"""Seconds of a long poll, the longest that SQS allows: an empty queue costs fewer requests."""

MAX_RECEIVE_COUNT: Final = 5
"""Receives before a message becomes a dead letter. Throttling, deployments and outages count as
receives, too; the library sends a message again as a copy before it has used up five."""

FIFO_MAX_RECEIVE_COUNT: Final = 20
"""The same on a FIFO queue, where a copy would lose its position, and each wait is a receive."""

KEY_REUSE_S: Final = 3600
"""Seconds for which SQS uses a data key of KMS again. Each new one is a request that KMS charges
for."""

MAX_QUEUE_NAME: Final = 80
"""The most characters of a queue's name, with `.fifo` (Amazon SQS quotas)."""

FIFO_SUFFIX: Final = ".fifo"

DEAD_LETTER_SUFFIX: Final = "-dlq"
"""What is appended to a queue's name, before `.fifo`, for its dead-letter queue."""

# The event source mapping.

BATCH_SIZE: Final = 10
"""The most messages of an event: one request to SQS."""

RESPONSE_TYPE: Final = "ReportBatchItemFailures"
"""Without it, one message that goes back takes its whole batch along."""

MIN_CONCURRENCY: Final = 2
"""The least MaximumConcurrency (ScalingConfig, AWS Lambda API reference)."""

CONCURRENCY: Final = 5
"""How many batches of a queue run at a time. A small database has about 80 connections, and each
function may open 13 (connections_needed)."""

BATCHES_PER_POLLER: Final = 10
"""How many batches a provisioned poller runs at a time (Using Lambda with Amazon SQS, AWS Lambda
developer guide). With pollers there is no MaximumConcurrency."""

MIN_POLLERS: Final = 2
"""The least pollers of an SQS queue (ProvisionedPollerConfig, AWS Lambda API reference)."""

POLLERS: Final = MIN_POLLERS
"""How many pollers a queue has by default, since they are charged for while nothing waits."""

# The tick.

TICK_EXPRESSION: Final = "rate(1 minute)"

TICK_EVENT: Final[Mapping[str, str]] = {"lambda_tasks": "tick"}

TICK_RETRIES: Final = 0
"""The next tick does what this one would have done."""

TICK_MAX_AGE_S: Final = 60
"""The least that Scheduler and Lambda allow: after an outage no old ticks come."""

# Alarms.

ALARM_PERIOD_S: Final = 60
"""Seconds of one period of an alarm: SQS and Lambda tell their figures once a minute."""

TICK_STOPPED_AFTER: Final = 5
"""Minutes without a tick before the alarm rings; one or two may be late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmPlan:
    """An alarm on one metric of a queue, of its dead letters or of the function."""

    name: str
    """What it watches, as a part of names."""
    description: str
    """What has happened when it rings."""
    why: str
    """Why its values are these."""
    namespace: str
    metric: str
    statistic: str
    comparison: str = "GreaterThanThreshold"
    threshold: int = 0
    minutes: int
    """How many minutes are looked at."""
    minutes_over: int
    """How many of these have to be over the threshold, or under it."""
    missing_data: str = "notBreaching"

    @property
    def dimension(self) -> str:
        """The name of the dimension that says of which queue or function the metric is."""
        return "QueueName" if self.namespace == "AWS/SQS" else "FunctionName"

    def properties(self) -> dict[str, Any]:
        """Return what is the same in each deployment, by names of CloudWatch and CloudFormation."""
        return {
            "AlarmDescription": self.description,
            "Namespace": self.namespace,
            "MetricName": self.metric,
            "Statistic": self.statistic,
            "Period": ALARM_PERIOD_S,
            "EvaluationPeriods": self.minutes,
            "DatapointsToAlarm": self.minutes_over,
            "ComparisonOperator": self.comparison,
            "Threshold": self.threshold,
            "TreatMissingData": self.missing_data,
        }


TICK_ALARM: Final = AlarmPlan(
    name="Tick",
    description="The tick has stopped, and with it schedules and long delays",
    why="Only the tick calls the function asynchronously. Without data, too, it has stopped.",
    namespace="AWS/Lambda",
    metric="AsyncEventsReceived",
    statistic="Sum",
    comparison="LessThanThreshold",
    threshold=1,
    minutes=TICK_STOPPED_AFTER,
    minutes_over=TICK_STOPPED_AFTER,
    missing_data="breaching",
)


def _failing(metric: str, description: str) -> AlarmPlan:
    return AlarmPlan(
        name=metric,
        description=description,
        why="One minute may be a deployment's.",
        namespace="AWS/Lambda",
        metric=metric,
        statistic="Sum",
        minutes=5,
        minutes_over=2,
    )


FAILURE_ALARMS: Final = (
    _failing("Errors", "The function fails, or runs into its timeout"),
    _failing("Throttles", "The account has no concurrency left for the function"),
)
"""The alarms on what goes wrong with the function as a whole."""

# Permissions.

CONSUMER_ACTIONS: Final = (
    "sqs:ReceiveMessage",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ChangeMessageVisibility",
    "sqs:SendMessage",
)
"""What a function or a worker does with its queues. It sends retries, and what tasks call."""

PRODUCER_ACTIONS: Final = ("sqs:SendMessage",)
"""What a process does that only enqueues."""

KEY_ACTIONS: Final = ("kms:GenerateDataKey", "kms:Decrypt")
"""What both do with a key of your own; to send, SQS also decrypts."""


def visibility_timeout_s(function_timeout_s: int) -> int:
    """Return the visibility timeout of a queue that feeds a function with this timeout."""
    return VISIBILITY_TIMEOUTS * function_timeout_s


def connections_needed(batches: int, *, concurrency: int, processes: int) -> int:
    """Return how many connections to the database functions may open.

    `batches` run at a time, each in a function of its own. `concurrency` and `processes` are
    LAMBDA_TASKS_CONCURRENCY and LAMBDA_TASKS_PROCESSES; one connection more is for records.
    """
    return batches * (concurrency + processes + 1)


def dead_letter_name(name: str) -> str:
    """Return the name of a queue's dead-letter queue, which is FIFO if the queue is."""
    stem = name.removesuffix(FIFO_SUFFIX)
    return stem + DEAD_LETTER_SUFFIX + name[len(stem) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlan:
    """How one SQS queue of LAMBDA_TASKS_QUEUES should be set, with its dead-letter queue.

    ARNs are texts, or what a template has in their place.
    """

    setting: str
    """The queue's key in LAMBDA_TASKS_QUEUES."""
    name: str
    """The queue's name in SQS."""
    function_timeout_s: int
    """The timeout of the function that consumes it, in seconds."""
    max_message_bytes: int
    """The attribute MaximumMessageSize. SQS allows 1 MiB; some tools set 256 KiB by default."""

    @property
    def is_fifo(self) -> bool:
        """Whether it is a FIFO queue."""
        return self.name.endswith(FIFO_SUFFIX)

    @property
    def dead_letter_name(self) -> str:
        """The name of its dead-letter queue."""
        return dead_letter_name(self.name)

    @property
    def visibility_timeout_s(self) -> int:
        """Its visibility timeout, in seconds."""
        return visibility_timeout_s(self.function_timeout_s)

    @property
    def max_receive_count(self) -> int:
        """The receives after which a message becomes a dead letter."""
        return FIFO_MAX_RECEIVE_COUNT if self.is_fifo else MAX_RECEIVE_COUNT

    @property
    def dead_letters_alarm(self) -> AlarmPlan:
        """The alarm on its dead-letter queue."""
        return AlarmPlan(
            name="DeadLetters",
            description=f"Messages of {self.setting} were received too often, and wait for you",
            why="Each dead letter is a call that did not run, or that nobody could read.",
            namespace="AWS/SQS",
            metric="ApproximateNumberOfMessagesVisible",
            statistic="Maximum",
            minutes=1,
            minutes_over=1,
        )

    @property
    def age_alarm(self) -> AlarmPlan:
        """The alarm on messages that wait for too long."""
        return AlarmPlan(
            name="Age",
            description=f"Messages of {self.setting} wait for too long",
            why="Younger ones may wait for their delay, or for the end of a function that died.",
            namespace="AWS/SQS",
            metric="ApproximateAgeOfOldestMessage",
            statistic="Maximum",
            threshold=self.visibility_timeout_s + MAX_DELAY_S,
            minutes=5,
            minutes_over=5,
        )

    def attributes(self, dead_letter_arn: object, *, kms_key: object = None) -> dict[str, Any]:
        """Return the queue's attributes, by their names in SQS and in CloudFormation.

        See encryption() for `kms_key`.
        """
        return {
            **self._shared_attributes(kms_key),
            "VisibilityTimeout": self.visibility_timeout_s,
            "MessageRetentionPeriod": RETENTION_S,
            "ReceiveMessageWaitTimeSeconds": RECEIVE_WAIT_S,
            "RedrivePolicy": {
                "deadLetterTargetArn": dead_letter_arn,
                "maxReceiveCount": self.max_receive_count,
            },
        }

    def dead_letter_attributes(
        self, queue_arn: object, *, kms_key: object = None
    ) -> dict[str, Any]:
        """Return the attributes of its dead-letter queue, which must exist before the queue."""
        return {
            **self._shared_attributes(kms_key),
            "MessageRetentionPeriod": DEAD_LETTER_RETENTION_S,
            "RedriveAllowPolicy": redrive_allow_policy(queue_arn),
        }

    def _shared_attributes(self, kms_key: object) -> dict[str, Any]:
        return {
            **(_FIFO_ATTRIBUTES if self.is_fifo else {}),
            "MaximumMessageSize": self.max_message_bytes,
            **encryption(kms_key),
        }


_FIFO_ATTRIBUTES: Final[Mapping[str, Any]] = {
    "FifoQueue": True,
    # High throughput: SQS limits each group, and not the whole queue. A message's deduplication id
    # is its invocation's, which is unique among all groups anyway.
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}


def encryption(kms_key: object = None) -> dict[str, Any]:
    """Return the attributes that encrypt messages: with a key of KMS, else with SQS's own key.

    SQS's own asks KMS for nothing: no request is charged for, throttled or refused, and nobody
    needs a permission, in another account neither. AWS's key for SQS in KMS, alias/aws/sqs, has
    a policy that nobody can change, so it gives no more control for what it costs.
    """
    if kms_key is None:
        return {"SqsManagedSseEnabled": True}
    return {"KmsMasterKeyId": kms_key, "KmsDataKeyReusePeriodSeconds": KEY_REUSE_S}


def redrive_allow_policy(queue_arn: object) -> dict[str, Any]:
    """Return the RedriveAllowPolicy of a dead-letter queue: no other queue may use it."""
    return {"redrivePermission": "byQueue", "sourceQueueArns": [queue_arn]}


def tls_only_policy(queue_arn: object) -> dict[str, Any]:
    """Return the Policy of a queue: nobody may use it without TLS."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OnlyWithTls",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "sqs:*",
                "Resource": queue_arn,
                "Condition": {"Bool": {"aws:SecureTransport": False}},
            }
        ],
    }


def as_texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Return attributes as SQS's API takes them and gives them: each is a text."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in attributes.items()
    }
