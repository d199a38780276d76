"""The pages on deployment have the values of the template, and name its options and alarms."""

import json
import math
import re
from argparse import ArgumentParser
from typing import Any

import pytest

from lambda_tasks import conf
from lambda_tasks.core import aws_values
from lambda_tasks.core.aws_values import QueuePlan
from lambda_tasks.deployment import sam
from lambda_tasks.deployment.planning import make_plan
from lambda_tasks.management.verbs import template
from tests.newcomer import PAGES
from tests.stack import read_template
from tests.test_template import BASE

TIMEOUT_S = 303

PLAN = QueuePlan(
    setting="default", name="mysite", function_timeout_s=TIMEOUT_S, max_message_bytes=1_048_576
)


@pytest.fixture
def alarms(settings: Any) -> dict[str, Any]:
    """The alarms of the template for one queue, by their metrics."""
    settings.LAMBDA_TASKS_QUEUES = {"default": BASE + "mysite"}
    found = read_template(sam.render(sam.Options()))["Resources"].values()
    return {
        each["Properties"]["MetricName"]: each["Properties"]
        for each in found
        if each["Type"] == "AWS::CloudWatch::Alarm"
    }


def terraform(resource: str) -> dict[str, str]:
    """The arguments of a resource on the page, as they are written, without remarks."""
    page = PAGES["docs/terraform.md"]
    (block,) = re.findall(rf'^resource "{resource}" {{\n(.*?)^}}', page, re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^ *(\w+) += +(.+?)(?: +#.*)?$", block, re.MULTILINE)
    return dict(lines)


def number(text: str, function_timeout_s: int = TIMEOUT_S) -> int:
    """The value of a number on the page, which may be a multiple of the function's timeout."""
    terms = text.replace("var.function_timeout", str(function_timeout_s)).split("+")
    return sum(math.prod(map(int, term.split("*"))) for term in terms)


@pytest.mark.parametrize(
    ("resource", "attributes"),
    [
        ('aws_sqs_queue" "tasks', PLAN.attributes("")),
        ('aws_sqs_queue" "dead_letters', PLAN.dead_letter_attributes("")),
    ],
)
def test_the_queues_for_terraform_are_set_as_those_of_the_template(
    resource: str, attributes: dict[str, Any]
) -> None:
    names = {
        "VisibilityTimeout": "visibility_timeout_seconds",
        "MessageRetentionPeriod": "message_retention_seconds",
        "ReceiveMessageWaitTimeSeconds": "receive_wait_time_seconds",
        "MaximumMessageSize": "max_message_size",
    }
    written = terraform(resource)

    for name, value in attributes.items():
        if name in names:
            assert number(written[names[name]]) == value, name
    assert json.loads(written["sqs_managed_sse_enabled"]) is attributes["SqsManagedSseEnabled"]
    assert not [name for name in written if name.startswith("kms_")]
    if "RedrivePolicy" in attributes:
        assert number(written["maxReceiveCount"]) == attributes["RedrivePolicy"]["maxReceiveCount"]


def test_the_function_and_its_tick_for_terraform_are_set_as_those_of_the_template() -> None:
    function = terraform('aws_lambda_function" "tasks')
    mapping = terraform('aws_lambda_event_source_mapping" "tasks')
    tick = terraform('aws_scheduler_schedule" "tick')
    calls = terraform('aws_lambda_function_event_invoke_config" "tick')
    page = PAGES["docs/terraform.md"]

    assert number(function["memory_size"]) == aws_values.MEMORY_MB
    assert json.loads(function["architectures"]) == [aws_values.ARCHITECTURE]
    assert number(mapping["batch_size"]) == aws_values.BATCH_SIZE
    assert json.loads(mapping["function_response_types"]) == [aws_values.RESPONSE_TYPE]
    assert f"maximum_concurrency = {aws_values.CONCURRENCY} " in page
    assert json.loads(tick["schedule_expression"]) == aws_values.TICK_EXPRESSION
    for each in (tick, calls):
        assert number(each["maximum_retry_attempts"]) == aws_values.TICK_RETRIES
        assert number(each["maximum_event_age_in_seconds"]) == aws_values.TICK_MAX_AGE_S
    logs = terraform('aws_cloudwatch_log_group" "tasks')
    assert number(logs["retention_in_days"]) == aws_values.LOG_RETENTION_DAYS
    assert f'variable "function_timeout" {{ default = {TIMEOUT_S} }}' in page


def test_the_alarms_for_terraform_are_those_of_the_template(alarms: dict[str, Any]) -> None:
    rows = re.findall(
        r'^ *[\w-]+ += \["(AWS/\w+)", "(\w+)", local\.\w+, (.*)\]$',
        PAGES["docs/terraform.md"],
        re.MULTILINE,
    )

    assert {metric for _, metric, _ in rows} == set(alarms)
    for namespace, metric, rest in rows:
        statistic, comparison, threshold, minutes, of_them, missing = rest.split(", ")
        there = alarms[metric]
        assert namespace == there["Namespace"]
        assert json.loads(statistic) == there["Statistic"]
        assert json.loads(comparison) == there["ComparisonOperator"]
        assert json.loads(missing) == there["TreatMissingData"]
        assert number(threshold, make_plan().function_timeout_s) == there["Threshold"]
        assert int(minutes) == there["EvaluationPeriods"]
        assert int(of_them) == there.get("DatapointsToAlarm", there["EvaluationPeriods"])


def test_the_permissions_by_hand_are_those_of_the_template() -> None:
    page = PAGES["docs/aws-by-hand.md"]
    policies = [
        json.loads(text)["Statement"][0]
        for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    ]

    consumer, producer, tls = policies

    assert tuple(consumer["Action"]) == aws_values.CONSUMER_ACTIONS
    assert (producer["Action"],) == aws_values.PRODUCER_ACTIONS
    (expected,) = aws_values.tls_only_policy(tls["Resource"])["Statement"]
    assert tls == expected
    hcl = PAGES["docs/terraform.md"]
    assert all(f'"{action}",' in hcl for action in aws_values.CONSUMER_ACTIONS)


def test_each_option_of_the_template_is_on_its_page() -> None:
    parser = ArgumentParser()
    template.add_arguments(parser)
    section = PAGES["docs/aws.md"].partition("## Deploy with SAM")[2].partition("\n## ")[0]

    listed = set(re.findall(r"`(--[a-z-]+)", section))

    options = {option for action in parser._actions for option in action.option_strings}
    assert options - {"-h", "--help"} <= listed


def test_each_alarm_has_what_to_do(alarms: dict[str, Any]) -> None:
    page = PAGES["docs/alarms.md"]

    titles = {
        "ApproximateNumberOfMessagesVisible": "Dead letters",
        "ApproximateAgeOfOldestMessage": "Age",
        "AsyncEventsReceived": "Tick",
    }

    for metric in alarms:
        assert f"## {titles.get(metric, metric)}\n" in page


def test_the_connections_of_a_function_are_on_the_page() -> None:
    one = aws_values.connections_needed(
        1, concurrency=conf.Settings().concurrency, processes=aws_values.VISIBLE_CPUS
    )

    assert f"up to {one} connections" in PAGES["docs/vpc.md"]
