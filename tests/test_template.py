"""`template sam`: what a project needs on AWS follows from its settings, and passes the linters."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError

from lambda_tasks.core import aws_values
from lambda_tasks.core.aws_values import CONSUMER_ACTIONS, QueuePlan, as_texts
from lambda_tasks.deployment import sam
from lambda_tasks.deployment.planning import make_plan
from tests import rehearsal
from tests.app import tasks
from tests.conftest import starting
from tests.servers import ServerUnavailable
from tests.servers.local_aws import ACCOUNT, REGION, LocalAws
from tests.stack import PARAMETERS, Stack, read_template, resolve
from tests.test_verbs import refused, verb

BASE: Final = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/"

BATCH: Final = {
    "job_queue_arn": "arn:aws:batch:us-east-1:000000000000:job-queue/big",
    "job_definition_arn": "arn:aws:batch:us-east-1:000000000000:job-definition/big",
}

VARIANTS: Final = {
    "plain": (),
    "vpc": ("--vpc", "--secret", "--kms-key", "--image-uri"),
    "proxy": ("--rds-proxy", "mysql", "--image-uri", "--parameters", "--doctor"),
    "snapshots": ("--snapstart", "--pollers"),
}
"""The options of the command, so that each is in one of them."""

CHECKOV_TIME_S: Final = 300.0

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _queues(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {
        "default": BASE + "shop",
        "other": {"queue_url": BASE + "shop-other", "max_message_bytes": 262_144},
        "fifo": BASE + "shop-orders.fifo",
        "heavy": BATCH,
        "table": {"database": True},
    }


@pytest.fixture(scope="module")
def checkov() -> str:
    found = shutil.which("checkov")
    with starting("checkov"):
        if found is None:
            raise ServerUnavailable("checkov is not installed: uv tool install checkov")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with LocalAws() as aws:
        yield aws


def sam_template(*options: str) -> str:
    return verb("template", "sam", *options).output


def resources(*options: str) -> dict[str, Any]:
    found: dict[str, Any] = read_template(sam_template(*options))["Resources"]
    return found


def of_type(type: str, *options: str) -> dict[str, Any]:
    found = resources(*options).items()
    return {id: each["Properties"] for id, each in found if each["Type"] == type}


def statements(role: dict[str, Any]) -> list[Any]:
    (policy,) = role["Policies"]
    found: list[Any] = policy["PolicyDocument"]["Statement"]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_cfn_lint_finds_nothing(variant: str) -> None:
    from cfnlint.api import lint

    assert lint(sam_template(*VARIANTS[variant])) == []


def test_checkov_finds_nothing_that_has_no_reason(checkov: str, tmp_path: Path) -> None:
    for name, options in VARIANTS.items():
        (tmp_path / f"{name}.yaml").write_text(sam_template(*options))

    done = subprocess.run(
        [checkov, "--directory", tmp_path, "--framework", "cloudformation", "--compact", "--quiet",
         "--skip-download", "--output", "json"],
        env={name: each for name, each in os.environ.items() if not name.startswith("PYTHON")},
        capture_output=True,
        check=False,  # it fails where it finds something
        text=True,
        timeout=CHECKOV_TIME_S,
    )  # fmt: skip

    found = json.loads(done.stdout)
    assert found["results"]["failed_checks"] == []
    assert found["summary"]["passed"] > 100
    assert found["summary"]["parsing_errors"] == 0


class TestQueues:
    def test_a_queue_is_set_as_planned_and_so_are_its_dead_letters(self) -> None:
        names = {"Prefix": "staging-"}
        queues = of_type("AWS::SQS::Queue")
        arns = {
            id: f"arn:aws:sqs:{REGION}:{ACCOUNT}:{resolve(each['QueueName'], names, {})}"
            for id, each in queues.items()
        }
        found = {
            each.pop("QueueName"): each
            for each in (resolve(each, names, arns) for each in queues.values())
        }

        expected: dict[str, Any] = {}
        for plan in make_plan(prefix="staging-").queues:
            own = f"arn:aws:sqs:{REGION}:{ACCOUNT}:"
            expected[plan.name] = plan.attributes(own + plan.dead_letter_name)
            expected[plan.dead_letter_name] = plan.dead_letter_attributes(own + plan.name)
        assert found == expected
        assert sorted(expected) == [
            "staging-shop", "staging-shop-dlq", "staging-shop-orders-dlq.fifo",
            "staging-shop-orders.fifo", "staging-shop-other", "staging-shop-other-dlq",
        ]  # fmt: skip

    def test_sqs_encrypts_messages_or_a_key_of_your_own(self) -> None:
        for options, key in (((), None), (("--kms-key",), {"Ref": "KmsKey"})):
            for queue in of_type("AWS::SQS::Queue", *options).values():
                found = {k: v for k, v in queue.items() if k.startswith(("Kms", "SqsManaged"))}
                assert found == aws_values.encryption(key)

    def test_nobody_uses_a_queue_without_tls(self) -> None:
        queues = set(of_type("AWS::SQS::Queue"))

        policies = of_type("AWS::SQS::QueuePolicy")

        assert {each["Queues"][0]["Ref"] for each in policies.values()} == queues
        for each in policies.values():
            arn = {"Fn::GetAtt": [each["Queues"][0]["Ref"], "Arn"]}
            assert each["PolicyDocument"] == aws_values.tls_only_policy(arn)

    def test_a_message_that_fails_goes_back_alone_and_nothing_is_reserved(self) -> None:
        for options in VARIANTS.values():
            mappings = of_type("AWS::Lambda::EventSourceMapping", *options)
            (function,) = of_type("AWS::Lambda::Function", *options).values()

            assert len(mappings) == 3
            assert "ReservedConcurrentExecutions" not in function
            for each in mappings.values():
                assert each["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
                # One of them, as AWS refuses both.
                assert ("ScalingConfig" in each) != ("ProvisionedPollerConfig" in each)

    def test_queues_that_share_one_in_aws_are_one(self, settings: Any) -> None:
        settings.LAMBDA_TASKS_QUEUES = {"default": BASE + "shop", "mail": BASE + "shop"}

        assert [plan.name for plan in make_plan().queues] == ["shop"]

    def test_the_prefix_of_the_settings_stands_in_the_parameter_only(self, settings: Any) -> None:
        settings.LAMBDA_TASKS_AWS = {"region_name": REGION, "aws_account_id": ACCOUNT}
        settings.LAMBDA_TASKS_QUEUES = {"default": {"queue_name": "shop"}}
        settings.LAMBDA_TASKS_QUEUE_PREFIX = "seventh-"

        assert [plan.name for plan in make_plan().queues] == ["seventh-shop"]
        assert [plan.name for plan in make_plan(prefix="seventh-").queues] == ["seventh-shop"]
        assert "seventh-" not in sam.render(sam.Options())

    def test_names_that_differ_in_punctuation_only_keep_apart(self) -> None:
        plans = [
            QueuePlan(setting=name, name="q", function_timeout_s=1, max_message_bytes=1024)
            for name in ("a-b", "a.b", "aB", "äöü", "…", "a7", "a", "a-", "A")
        ]

        ids = [each.id for each in sam.named(plans)]

        assert len(set(ids)) == len(plans)
        assert all(each.isascii() and each.isalnum() for each in ids)

    def test_a_queue_may_have_any_key_in_the_settings(self, settings: Any) -> None:
        key = 'mail: "fast" #1\n- {{ x }} ${y} ü'
        settings.LAMBDA_TASKS_QUEUES |= {key: BASE + "mail"}

        alarms = of_type("AWS::CloudWatch::Alarm").values()

        assert sum(key in each["AlarmDescription"] for each in alarms) == 2

    @pytest.mark.parametrize("name", ["x" * 77, "a.b", "..."])
    def test_a_name_that_sqs_refuses_is_named(self, settings: Any, name: str) -> None:
        settings.LAMBDA_TASKS_QUEUES = {
            "default": f"https://q.example/1/{name}/".replace("//", "/")
        }
        settings.LAMBDA_TASKS_QUEUES = {"default": f"https://q.example/{name}"}

        with pytest.raises(ImproperlyConfigured, match=r"'default' of LAMBDA_TASKS_QUEUES"):
            make_plan()

    def test_settings_without_sqs_are_told_what_is_missing(self, settings: Any) -> None:
        settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}

        with pytest.raises(CommandError, match="has 0 SQS queues"):
            sam_template()


class TestFunction:
    @pytest.mark.parametrize(("queue", "timeout_s"), [("other", 803), ("heavy", 703)])
    def test_its_timeout_is_that_of_the_longest_task_that_it_runs(
        self, settings: Any, monkeypatch: Any, queue: str, timeout_s: int
    ) -> None:
        settings.LAMBDA_TASKS_DEFAULT_HARD_TIMEOUT = 700
        options = replace(tasks.add.options, hard_timeout=800, queue=queue)
        monkeypatch.setattr(tasks.add, "options", options)

        (function,) = of_type("AWS::Lambda::Function").values()

        assert function["Timeout"] == timeout_s

    def test_its_timeout_is_one_that_lambda_allows(self, settings: Any) -> None:
        settings.LAMBDA_TASKS_DEFAULT_HARD_TIMEOUT = 5000

        assert make_plan().function_timeout_s == 900

    def test_a_snapshot_is_of_a_version_and_all_call_its_alias(self) -> None:
        found = resources("--snapstart")

        callers = [
            each["Properties"]["FunctionName"]
            for each in found.values()
            if each["Type"] == "AWS::Lambda::EventSourceMapping"
        ]
        callers.append(found["Tick"]["Properties"]["Target"]["Arn"])
        assert callers == [{"Ref": "Alias"}] * 4
        assert found["TickCalls"]["Properties"]["Qualifier"] == "live"
        assert found["Version"]["Properties"]["Description"] == {"Ref": "Release"}
        variables = found["Function"]["Properties"]["Environment"]["Variables"]
        assert variables["RELEASE"] == {"Ref": "Release"}, "another release is another version"

    def test_numbers_are_numbers_in_every_language(self, settings: Any) -> None:
        settings.USE_THOUSAND_SEPARATOR = True
        settings.LANGUAGE_CODE = "de"

        (function,) = of_type("AWS::Lambda::Function").values()

        assert function["MemorySize"] == 1769


class TestPermissions:
    def test_the_function_uses_its_queues_and_writes_its_log(self) -> None:
        roles = of_type("AWS::IAM::Role")

        logs, queues, batch = statements(roles["FunctionRole"])

        assert logs["Resource"] == {"Fn::GetAtt": ["Logs", "Arn"]}
        assert queues["Action"] == list(CONSUMER_ACTIONS)
        assert [each["Fn::GetAtt"] for each in queues["Resource"]] == [
            ["DefaultQueue", "Arn"], ["OtherQueue", "Arn"], ["FifoQueue", "Arn"],
        ]  # fmt: skip
        revisions = f"{BATCH['job_definition_arn']}:*"
        assert batch == {
            "Effect": "Allow", "Action": "batch:SubmitJob",
            "Resource": sorted([*BATCH.values(), revisions]),
        }  # fmt: skip

    def test_a_revision_that_is_named_is_the_only_one_that_may_run(self, settings: Any) -> None:
        definition = f"{BATCH['job_definition_arn']}:7"
        settings.LAMBDA_TASKS_QUEUES |= {"heavy": {**BATCH, "job_definition_arn": definition}}

        *_, batch = statements(of_type("AWS::IAM::Role")["FunctionRole"])

        assert batch["Resource"] == sorted([BATCH["job_queue_arn"], definition])

    def test_web_processes_only_send(self, settings: Any) -> None:
        def actions() -> list[Any]:
            (policy,) = of_type("AWS::IAM::ManagedPolicy").values()
            return [each["Action"] for each in policy["PolicyDocument"]["Statement"]]

        assert actions() == [["sqs:SendMessage"]]

        settings.LAMBDA_TASKS_QUEUES |= {"heavy": {**BATCH, "direct": True}}
        assert actions() == [["sqs:SendMessage"], "batch:SubmitJob"]

    def test_a_secret_is_read_without_the_version_that_its_parameter_names(self) -> None:
        role = of_type("AWS::IAM::Role", "--secret")["FunctionRole"]

        read = statements(role)[-1]

        assert read["Action"] == "secretsmanager:GetSecretValue"
        template, parts = read["Resource"]["Fn::Sub"]
        assert template.endswith(":secret:${Name}")
        assert parts["Name"] == {
            "Fn::Select": [6, {"Fn::Split": [":", {"Ref": "EnvironmentSecret"}]}]
        }

    def test_parameters_are_read_below_their_path_only(self) -> None:
        found = resources("--parameters")
        (variables,) = (
            each["Properties"]["Environment"]["Variables"]
            for each in found.values()
            if each["Type"] == "AWS::Lambda::Function"
        )

        read = statements(found["FunctionRole"]["Properties"])[-1]

        assert variables["LAMBDA_TASKS_SSM_ENVIRONMENT"] == {"Fn::Sub": "${ParameterPath}/"}
        names = [each["Fn::Sub"].rpartition(":")[2] for each in read["Resource"]]
        assert names == ["parameter${ParameterPath}", "parameter${ParameterPath}/*"]

    def test_what_the_doctor_reads_it_can_not_change(self) -> None:
        role = of_type("AWS::IAM::Role", "--doctor")["FunctionRole"]
        plain = of_type("AWS::IAM::Role")["FunctionRole"]

        added = [each for each in statements(role) if each not in statements(plain)]

        actions = [
            action
            for each in added
            for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
        ]
        assert {
            "lambda:ListEventSourceMappings", "cloudwatch:DescribeAlarms",
            "batch:DescribeJobQueues",
        } <= set(actions)  # fmt: skip
        assert all(re.match("(Get|List|Describe)", action.partition(":")[2]) for action in actions)


class TestCommand:
    def test_it_writes_a_file_and_spares_one_that_is_there(self, tmp_path: Path) -> None:
        file = tmp_path / "template.yaml"

        assert verb("template", "sam", "--output", str(file)).output == ""
        written = file.read_text()
        assert "exists. Overwrite it with --force" in refused(
            "template", "sam", "--vpc", "--output", str(file)
        )
        assert file.read_text() == written == sam_template()

        verb("template", "sam", "--vpc", "--force", "--output", str(file))
        assert file.read_text() == sam_template("--vpc")

    def test_it_says_where_it_can_not_write(self, tmp_path: Path) -> None:
        file = tmp_path / "missing" / "template.yaml"

        assert "can't be written: No such file" in refused("template", "sam", "--output", str(file))


def test_the_stack_is_created_as_the_template_says(aws: LocalAws) -> None:
    stack = Stack.deploy(aws, sam_template("--image-uri"), parameters=PARAMETERS)

    sqs, scheduler = aws.client("sqs"), aws.client("scheduler")
    for plan in make_plan().queues:
        dead_letters = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{plan.dead_letter_name}"
        there = sqs.get_queue_attributes(
            QueueUrl=f"{aws.endpoint_url}/{ACCOUNT}/{plan.name}", AttributeNames=["All"]
        )["Attributes"]
        assert as_texts(plan.attributes(dead_letters)).items() <= there.items()
    tick = scheduler.get_schedule(Name=stack.physical_ids["Tick"])
    assert tick["ScheduleExpression"] == "rate(1 minute)"
    assert json.loads(tick["Target"]["Input"]) == {"lambda_tasks": "tick"}
    assert tick["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    alarms = {
        each["MetricName"]: each["TreatMissingData"]
        for each in aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    }
    assert alarms == {
        "ApproximateAgeOfOldestMessage": "notBreaching",
        "ApproximateNumberOfMessagesVisible": "notBreaching",
        "AsyncEventsReceived": "breaching",
        "Errors": "notBreaching",
        "Throttles": "notBreaching",
    }


def test_the_demo_runs_through_the_stack_of_its_template(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rehearsal.main(orders=8)

    told = capsys.readouterr().out
    assert "Every task is accounted for" in told
    assert '"relayed": 0' in told
