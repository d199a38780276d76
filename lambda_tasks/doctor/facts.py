"""What the checks look at: live queues, mappings, functions and the database.

Each part that could not be read says why, and raises NotChecked where a check needs it.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.core.checks import CheckMessage

from ..core.aws_values import BATCHES_PER_POLLER, AlarmPlan, QueuePlan
from ..deployment.planning import Plan
from ..queues.batch import BatchQueue
from ..queues.sqs import SQSQueue
from ..records.server import Migrations, Server
from .dead_letters import DeadTasks
from .findings import Fact

FUNCTION_VARIABLE: Final = "AWS_LAMBDA_FUNCTION_NAME"
"""The variable by which a function knows its name."""

Attributes = Mapping[str, str]
"""The attributes of a queue in SQS."""


def is_inside() -> bool:
    """Return whether this process is a function."""
    return FUNCTION_VARIABLE in os.environ


@dataclass(frozen=True, slots=True)
class Alarms:
    """The alarms of a region, as CloudWatch has them."""

    metric: Sequence[Mapping[str, Any]]
    """Those on metrics."""
    composite: Sequence[Mapping[str, Any]]
    """Those on other alarms."""

    def on(self, plan: AlarmPlan, watched: str) -> list[Mapping[str, Any]]:
        """Return the alarms on a plan's metric of a queue or a function, alone or in a sum.

        A metric whose name begins with the plan's is of a part of the same.
        """
        dimension = {"Name": plan.dimension, "Value": watched}
        return [
            alarm
            for alarm in self.metric
            if any(
                each.get("Namespace") == plan.namespace
                and each.get("MetricName", "").startswith(plan.metric)
                and dimension in each.get("Dimensions", ())
                for each in _metrics_of(alarm)
            )
        ]

    def tells_somebody(self, alarm: Mapping[str, Any]) -> bool:
        """Return whether an alarm has an action, or a composite alarm that names it has one."""
        above = [
            each
            for each in self.composite
            if alarm["AlarmName"] in map(str.strip, re.split("[\"'():]", each["AlarmRule"]))
        ]
        return any(
            each.get("ActionsEnabled") and each.get("AlarmActions") for each in (alarm, *above)
        )


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead-letter queue of a queue."""

    url: str
    attributes: Attributes

    @property
    def arn(self) -> str:
        """Its ARN."""
        return self.attributes["QueueArn"]


@dataclass(frozen=True, slots=True)
class LiveQueue:
    """A queue of the settings, as SQS has it."""

    queue: SQSQueue
    plan: QueuePlan
    """What it should be."""
    region: str
    attributes: Fact[Attributes]
    dead_letters: Fact[DeadLetters | None]
    mappings: Fact[Sequence[Mapping[str, Any]]]
    """Its event source mappings, as Lambda describes them."""
    function_timeouts_s: Fact[Sequence[int]]
    """The timeouts of the functions that consume it."""
    alarms: Fact[Alarms]
    """The alarms of its region."""

    def __str__(self) -> str:
        return f"queue {self.queue.name}"

    @property
    def redrive_policy(self) -> Mapping[str, Any]:
        """The redrive policy; empty for none."""
        return policy_of(self.attributes.value, "RedrivePolicy")


@dataclass(frozen=True, slots=True)
class LiveFunction:
    """A function that consumes queues, as Lambda has it."""

    arn: str
    """Its ARN as mappings have it, maybe with a version or an alias."""
    region: str
    plan: Plan
    batches: Fact[int | None]
    """The most batches that its mappings run at a time; None where nothing limits them."""
    configuration: Fact[Mapping[str, Any]]
    reserved: Fact[int | None]
    """Its reserved concurrency; None for none."""
    recursive_loop: Fact[str]
    """What Lambda does about a loop: "Terminate" or "Allow"."""
    log_group: Fact[Mapping[str, Any] | None]
    """The group of its log; None where it does not exist."""
    ticks: Fact[Sequence[Mapping[str, Any]]]
    """The schedules of EventBridge that invoke it, as the Scheduler describes them."""
    alarms: Fact[Alarms]
    """The alarms of its region."""

    def __str__(self) -> str:
        return f"function {self.name}"

    @property
    def name(self) -> str:
        """The function's name."""
        return function_name(self.arn)

    @property
    def qualifier(self) -> str:
        """The version or alias that mappings name; "" for none."""
        return self.arn.removeprefix(unqualified(self.arn)).removeprefix(":")


@dataclass(frozen=True, slots=True)
class LiveMapping:
    """An event source mapping, as Lambda has it."""

    mapping: Mapping[str, Any]
    queue: LiveQueue
    function: LiveFunction

    def __str__(self) -> str:
        return f"mapping of {self.queue} to {self.function}"

    @property
    def id(self) -> str:
        """Its id in AWS."""
        id: str = self.mapping["UUID"]
        return id

    @property
    def batches(self) -> int | None:
        """The most batches that run at a time; None where nothing limits them."""
        return batches_of(self.mapping)


@dataclass(frozen=True, slots=True)
class LiveJobs:
    """A queue of the settings whose messages become jobs, as AWS Batch has what it names."""

    queue: BatchQueue
    plan: Plan
    job_queue: Fact[Mapping[str, Any] | None]
    """The job queue; None where it does not exist."""
    environments: Fact[Sequence[Mapping[str, Any]]]
    """The compute environments that its job queue names."""
    definition: Fact[Mapping[str, Any] | None]
    """The job definition, its latest active revision if the settings name none; None for none."""

    def __str__(self) -> str:
        return f"queue {self.queue.name}"

    @property
    def region(self) -> str:
        """The region of its job queue."""
        return self.queue.region


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The project as a whole: its settings, database and records, and all that consumes queues."""

    plan: Plan
    server: Fact[Server]
    database_ahead_s: Fact[float]
    """How far the clock of the database is ahead of this machine's, in seconds."""
    aws_ahead_s: Fact[float]
    """The same of AWS's clock, by the dates of its answers."""
    aws_refusal: str
    """Why AWS has answered nothing at all; "" where it has, or was asked nothing."""
    migrations: Fact[Migrations]
    last_round_s: Fact[float | None]
    """About the seconds since schedules and relay were looked after; None for never."""
    waiting_tasks: Fact[Mapping[str, int]]
    """How many records wait, by the names of their tasks."""
    mappings: Fact[Sequence[LiveMapping]]
    check_messages: Fact[Sequence[CheckMessage]]
    """What the system checks of the library say."""

    def __str__(self) -> str:
        return "inside" if is_inside() else "here"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was read."""

    system: System
    queues: Sequence[LiveQueue]
    mappings: Sequence[LiveMapping]
    functions: Sequence[LiveFunction]
    jobs: Sequence[LiveJobs]
    dead: Sequence[DeadTasks]
    """The tasks of dead letters, if they were asked for."""


def batches_of(mapping: Mapping[str, Any]) -> int | None:
    """Return the most batches of a mapping at a time; None where nothing limits them."""
    pollers = mapping.get("ProvisionedPollerConfig") or {}
    if "MaximumPollers" in pollers:
        return int(pollers["MaximumPollers"]) * BATCHES_PER_POLLER
    limit = (mapping.get("ScalingConfig") or {}).get("MaximumConcurrency")
    return None if limit is None else int(limit)


def policy_of(attributes: Attributes, name: str) -> Mapping[str, Any]:
    """Return an attribute that is JSON; empty for none."""
    found: Mapping[str, Any] = json.loads(attributes.get(name) or "{}")
    return found


def unqualified(arn: str) -> str:
    """Return the ARN of a function without a version or an alias."""
    return ":".join(arn.split(":")[:7])


def function_name(arn: str) -> str:
    """Return the name in the ARN of a function."""
    return arn.split(":")[6]


def region_of(arn: str) -> str:
    """Return the region in an ARN."""
    return arn.split(":")[3]


def _metrics_of(alarm: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the metrics of an alarm: its own, or those of its expression."""
    parts = alarm.get("Metrics") or ()
    return [alarm, *(each["MetricStat"]["Metric"] for each in parts if "MetricStat" in each)]
