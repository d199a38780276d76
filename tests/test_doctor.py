"""The doctor finds each fault of a deployment, one by one, and nothing where there is none.

The template is deployed to MiniStack, which keeps queues, mappings, functions, schedules and logs
as AWS does. It has no SnapStart, and neither its clock nor the database's can be set: those checks
get facts that are made up.
"""

import io
import json
import re
import shlex
import sys
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings as django_settings
from django.core.checks import Error
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings

from lambda_tasks import handler, operations
from lambda_tasks.core import aws_values
from lambda_tasks.core.aws_values import QueuePlan
from lambda_tasks.deployment.sam import Options, render
from lambda_tasks.doctor import examination, reading
from lambda_tasks.doctor.facts import Alarms, Facts
from lambda_tasks.doctor.findings import Fact
from lambda_tasks.errors import NotMigrated
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.operations import Finding
from lambda_tasks.records import reports
from tests.servers.local_aws import ACCOUNT, REGION, LocalAws
from tests.stack import PARAMETERS, Stack
from tests.test_operations import record, ticked
from tests.test_verbs import refused, verb

pytestmark = pytest.mark.django_db(transaction=True)

KEY = "k" * 32
MAX_MESSAGE_BYTES = 262_144
"""What MiniStack allows; AWS allows 1 MiB."""

ALARM = "AWS::CloudWatch::Alarm"

ALARM_PROPERTIES = {
    *aws_values.TICK_ALARM.properties(), "AlarmName", "Dimensions", "ActionsEnabled",
    "AlarmActions", "OKActions",
}  # fmt: skip

READ_ONLY = re.compile("QueueArn|.*Timestamp|ApproximateNumber.*")
"""The attributes of a queue that nobody sets."""


class Deployment:
    """The template of the test project with one queue, as it deploys."""

    def __init__(self, aws: LocalAws) -> None:
        self.name = f"tasks-{uuid.uuid4().hex[:8]}"
        self.queue_url = f"{aws.endpoint_url}/{ACCOUNT}/{self.name}"
        self.settings = {
            "LAMBDA_TASKS_AWS": aws.client_options,
            "LAMBDA_TASKS_SIGNING_KEYS": [KEY],
            "LAMBDA_TASKS_SECRETS_KEYS": [KEY],
            "LAMBDA_TASKS_QUEUES": django_settings.LAMBDA_TASKS_QUEUES
            | {name: {"database": True} for name in ("other", "fifo", "heavy")}
            | {"default": {"queue_url": self.queue_url, "max_message_bytes": MAX_MESSAGE_BYTES}},
        }
        with override_settings(**self.settings):
            template = render(Options(image_uri=True))
        parameters = {**PARAMETERS, "MaximumConcurrency": str(aws_values.MIN_CONCURRENCY)}
        stack = Stack.deploy(aws, template, name=self.name, parameters=parameters)
        services = ("sqs", "lambda", "scheduler", "logs", "events", "cloudwatch")
        self.clients = [aws.client(each) for each in services]
        self.sqs, self.functions, self.schedules, self.logs, self.events, self.alarms = self.clients
        self.dead_url = stack.queue_url("DefaultDeadLetters")
        self.arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"
        self.mapping, self.tick, self.log = (
            stack.physical_ids[next(iter(stack.of_type(kind)))]
            for kind in (
                "AWS::Lambda::EventSourceMapping",
                "AWS::Scheduler::Schedule",
                "AWS::Logs::LogGroup",
            )
        )
        self.alarm_names = {id: stack.physical_ids[id] for id in stack.of_type(ALARM)}
        self._queue, self._dead = map(self._attributes, (self.queue_url, self.dead_url))
        found = self.alarms.describe_alarms(AlarmNames=list(self.alarm_names.values()))
        self._alarms = [
            {name: value for name, value in each.items() if name in ALARM_PROPERTIES}
            for each in found["MetricAlarms"]
        ]
        self._mapping = self.functions.get_event_source_mapping(UUID=self.mapping)
        self._tick = self.schedules.get_schedule(Name=self.tick)
        function = self.functions.get_function_configuration(FunctionName=self.name)
        kept = ("FunctionName", "Role", "Timeout", "MemorySize", "PackageType", "LoggingConfig")
        self._function = {name: function[name] for name in kept}

    def restore(self) -> None:
        """Let all of it be as the template has it."""
        for url, attributes in ((self.dead_url, self._dead), (self.queue_url, self._queue)):
            self.sqs.create_queue(QueueName=url.rpartition("/")[2])
            self.sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)
        self.sqs.purge_queue(QueueUrl=self.dead_url)
        if any(each["FunctionName"] == self.name for each in self._functions()):
            self.functions.delete_function(FunctionName=self.name)
        self.functions.create_function(**self._function, Code={"ImageUri": "tasks:latest"})
        for each in self._mappings():
            self.functions.delete_event_source_mapping(UUID=each["UUID"])
        self.mapping = self.add_mapping()
        if not self.schedules.list_schedules(NamePrefix=self.tick)["Schedules"]:
            self.schedules.create_schedule(Name=self.tick, **self._schedule())
        self.set_schedule()
        if not self.logs.describe_log_groups(logGroupNamePrefix=self.log)["logGroups"]:
            self.logs.create_log_group(logGroupName=self.log)
        self.logs.put_retention_policy(
            logGroupName=self.log, retentionInDays=aws_values.LOG_RETENTION_DAYS
        )
        for each in self._alarms:
            self.alarms.put_metric_alarm(**each)
        ticked()

    def close(self) -> None:
        for each in self.clients:
            each.close()

    def answer_with(self, code: str) -> None:
        """Let the function be one that MiniStack can run, as it has no Docker for images."""
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as content:
            content.writestr("index.py", code)
        kept = {k: v for k, v in self._function.items() if k != "PackageType"}
        self.functions.delete_function(FunctionName=self.name)
        self.functions.create_function(
            **kept,
            Runtime="python3.11",
            Handler="index.handler",
            Code={"ZipFile": archive.getvalue()},
        )

    # Faults

    def set_queue(self, **attributes: Any) -> None:
        self._set(self.queue_url, attributes)

    def set_dead(self, **attributes: Any) -> None:
        self._set(self.dead_url, attributes)

    def drop_redrive_policy(self) -> None:
        self.sqs.delete_queue(QueueUrl=self.queue_url)
        self.sqs.create_queue(
            QueueName=self.name,
            Attributes={k: v for k, v in self._queue.items() if k != "RedrivePolicy"},
        )

    def set_redrive(self, **values: Any) -> None:
        self.set_queue(RedrivePolicy=json.loads(self._queue["RedrivePolicy"]) | values)

    def set_function(self, **values: Any) -> None:
        self.functions.update_function_configuration(FunctionName=self.name, **values)

    def set_mapping(self, **values: Any) -> None:
        self.functions.update_event_source_mapping(UUID=self.mapping, **values)

    def set_schedule(self, **values: Any) -> None:
        self.schedules.update_schedule(Name=self.tick, **self._schedule() | values)

    def add_mapping(self) -> str:
        kept = ("EventSourceArn", "BatchSize", "FunctionResponseTypes", "ScalingConfig")
        mapping = {name: self._mapping[name] for name in kept}
        made = self.functions.create_event_source_mapping(FunctionName=self.name, **mapping)
        return str(made["UUID"])

    def drop_alarm(self, id: str) -> None:
        self.alarms.delete_alarms(AlarmNames=[self.alarm_names[id]])

    def mute_alarm(self, id: str) -> None:
        self.alarms.disable_alarm_actions(AlarmNames=[self.alarm_names[id]])

    def set_alarm(self, id: str, **values: Any) -> None:
        (kept,) = [each for each in self._alarms if each["AlarmName"] == self.alarm_names[id]]
        self.alarms.put_metric_alarm(**kept | values)

    def large_batches(self) -> None:
        self.set_mapping(BatchSize=100, MaximumBatchingWindowInSeconds=1)
        self.set_queue(VisibilityTimeout=int(self._queue["VisibilityTimeout"]) + 1)

    def _functions(self) -> Any:
        return self.functions.list_functions()["Functions"]

    def _mappings(self) -> Any:
        arn = self._mapping["EventSourceArn"]
        return self.functions.list_event_source_mappings(EventSourceArn=arn)["EventSourceMappings"]

    def _schedule(self) -> dict[str, Any]:
        kept = ("ScheduleExpression", "FlexibleTimeWindow", "Target", "State")
        return {name: self._tick[name] for name in kept}

    def _set(self, url: str, attributes: dict[str, Any]) -> None:
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes=aws_values.as_texts(attributes))

    def _attributes(self, url: str) -> dict[str, str]:
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return {name: value for name, value in found.items() if not READ_ONLY.fullmatch(name)}


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    aws = LocalAws()
    aws.start()
    made = Deployment(aws)
    yield made
    made.close()
    aws.stop()


@pytest.fixture
def deployed(deployment: Deployment, settings: Any) -> Deployment:
    for name, value in deployment.settings.items():
        setattr(settings, name, value)
    deployment.restore()
    return deployment


def ids(findings: list[Finding]) -> set[str]:
    return {each.id for each in findings if each.is_checked}


FAULTS: dict[str, Callable[[Deployment], object]] = {
    "queue.missing": lambda it: it.sqs.delete_queue(QueueUrl=it.queue_url),
    "queue.visibility_timeout": lambda it: it.set_queue(VisibilityTimeout=30),
    "queue.dead_letters": lambda it: it.drop_redrive_policy(),
    "queue.max_receive_count": lambda it: it.set_redrive(maxReceiveCount=1),
    "queue.retention": lambda it: it.set_queue(MessageRetentionPeriod=3600),
    "queue.dead_letter_retention": lambda it: it.set_dead(MessageRetentionPeriod=86_400),
    "queue.redrive_allow_policy": lambda it: it.set_dead(RedriveAllowPolicy=""),
    "queue.encryption": lambda it: it.set_queue(SqsManagedSseEnabled=False),
    "queue.tls": lambda it: it.set_queue(Policy=""),
    "queue.max_message_size": lambda it: it.set_queue(MaximumMessageSize=1024),
    "queue.receive_wait": lambda it: it.set_queue(ReceiveMessageWaitTimeSeconds=0),
    "queue.delay": lambda it: it.set_queue(DelaySeconds=60),
    "dead_letters.waiting": lambda it: it.sqs.send_message(QueueUrl=it.dead_url, MessageBody="{}"),
    "mapping.missing": lambda it: it.functions.delete_event_source_mapping(UUID=it.mapping),
    "mapping.duplicate": lambda it: it.add_mapping(),
    "mapping.state": lambda it: it.set_mapping(Enabled=False),
    "mapping.partial_batches": lambda it: it.set_mapping(FunctionResponseTypes=[]),
    "mapping.concurrency": lambda it: it.set_mapping(ScalingConfig={}),
    "mapping.filter": lambda it: it.set_mapping(
        FilterCriteria={"Filters": [{"Pattern": '{"body": {"a": [1]}}'}]}
    ),
    "mapping.batch_size": lambda it: it.large_batches(),
    "function.missing": lambda it: it.functions.delete_function(FunctionName=it.name),
    "function.timeout": lambda it: it.set_function(Timeout=60),
    "function.memory": lambda it: it.set_function(MemorySize=256),
    "function.reserved_concurrency": lambda it: it.functions.put_function_concurrency(
        FunctionName=it.name, ReservedConcurrentExecutions=1
    ),
    "function.recursive_loop": lambda it: it.functions.put_function_recursion_config(
        FunctionName=it.name, RecursiveLoop="Allow"
    ),
    "logs.retention": lambda it: it.logs.delete_retention_policy(logGroupName=it.log),
    "logs.missing": lambda it: it.logs.delete_log_group(logGroupName=it.log),
    "tick.missing": lambda it: it.schedules.delete_schedule(Name=it.tick),
    "tick.disabled": lambda it: it.set_schedule(State="DISABLED"),
    "tick.rate": lambda it: it.set_schedule(ScheduleExpression="rate(10 minutes)"),
    "tick.age": lambda it: ticked(timedelta(hours=1)),
    "alarm.queue": lambda it: it.drop_alarm("DefaultDeadLettersAlarm"),
    "alarm.tick": lambda it: it.mute_alarm("TickAlarm"),
    "alarm.function": lambda it: it.drop_alarm("ErrorsAlarm"),
    "release.unknown_tasks": lambda it: record("QUEUED", task_name="shop.tasks.gone"),
}


def test_each_fault_is_found_with_its_fix_and_nothing_where_there_is_none(
    deployed: Deployment,
) -> None:
    assert operations.doctor() == []
    found: dict[str, set[str]] = {}

    for id, make in FAULTS.items():
        deployed.restore()
        make(deployed)
        findings = operations.doctor()
        found[id] = ids(findings)
        for each in findings:
            assert each.fix if each.is_checked else each.found.startswith("Not checked: ")

    assert found == {id: {id} for id in FAULTS}


def test_the_last_report_has_what_was_found_and_how_sqs_has_the_queues(
    deployed: Deployment,
) -> None:
    assert operations.last_report() is None
    deployed.set_queue(VisibilityTimeout=30, Policy="")

    found = operations.doctor(ignore=["alarm"])

    report = operations.last_report()
    assert report is not None
    assert [each["id"] for each in report.findings] == [each.id for each in found]
    assert (report.n_findings, report.ignored) == (len(found), ["alarm"])
    assert report.queues.keys() == {"default"}
    queue, dead = report.queues["default"]
    assert (queue["name"], dead["name"]) == (deployed.name, f"{deployed.name}-dlq")
    different = {each["attribute"]: each["live"] for each in queue["differences"]}
    assert different == {"VisibilityTimeout": 30, "Policy": None}
    assert (dead["differences"], dead["n_attributes"]) == ([], 5)
    assert {each.attribute for each in operations.diff_queues("default")} == different.keys()

    deployed.set_dead(RedriveAllowPolicy="")
    operations.doctor()

    report = operations.last_report()
    assert report is not None
    dead = report.queues["default"][1]
    assert (dead["differences"], dead["n_attributes"]) == ([], 4), "only SQS knows whose it is"

    deployed.sqs.delete_queue(QueueUrl=deployed.queue_url)
    operations.doctor()

    report = operations.last_report()
    assert report is not None
    assert (report.queues, report.ignored) == ({}, [])
    assert report.findings[0]["id"] == "queue.missing"


def test_a_report_is_no_larger_than_a_page_can_show(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [Error(f"{number} " + "x" * 10_000, id="x.E001") for number in range(300)]
    monkeypatch.setattr(reading, "_check_messages", lambda: many)

    assert len(operations.doctor()) == 300

    report = operations.last_report()
    assert report is not None
    assert (len(report.findings), report.n_findings) == (200, 300)
    assert len(json.dumps(report.findings)) < 200 * 10_000


def test_what_can_not_be_kept_is_found_all_the_same(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**found: Any) -> None:
        raise NotMigrated(alias="default")

    monkeypatch.setattr(reports, "keep", fail)
    deployed.set_queue(DelaySeconds=60)

    assert ids(operations.doctor()) == {"queue.delay"}

    assert "could not be kept for the pages" in caplog.text
    assert operations.last_report() is None


MADE_UP: dict[str, Callable[[Facts], Facts]] = {
    "function.snap_start": lambda it: of_function(it, SnapStart={"ApplyOn": "PublishedVersions"}),
    "function.state": lambda it: of_function(it, State="Failed", StateReason="no such image"),
    "database.connections": lambda it: of_server(
        it, max_connections=20, n_connections=3, is_behind_pooler=False
    ),
    "database.isolation": lambda it: of_server(it, isolation="serializable"),
    "database.pooler": lambda it: of_server(
        it, is_behind_pooler=True, has_server_side_cursors=True
    ),
    "database.clock": lambda it: of_system(it, database_ahead_s=Fact(-90.0)),
    "aws.clock": lambda it: of_system(it, aws_ahead_s=Fact(90.0)),
    "cost.polling": lambda it: of_server(
        of_system(it, mappings=Fact(list(it.mappings) * 20)), max_connections=None
    ),
    "settings.check": lambda it: of_system(it, check_messages=Fact([Error("wrong", id="x.E001")])),
}


def of_system(facts: Facts, **values: Any) -> Facts:
    return replace(facts, system=replace(facts.system, **values))


def of_server(facts: Facts, **values: Any) -> Facts:
    return of_system(facts, server=Fact(replace(facts.system.server.value, **values)))


def of_function(facts: Facts, **values: Any) -> Facts:
    (function,) = facts.functions
    configuration: Fact[Any] = Fact({**function.configuration.value, **values})
    return replace(facts, functions=[replace(function, configuration=configuration)])


def test_what_no_laptop_has_is_found_in_facts_that_are_made_up(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reading.read
    found: dict[str, set[str]] = {}
    for id, change in MADE_UP.items():

        async def read_and_change(*args: Any, change: Any = change, **kwargs: Any) -> Facts:
            facts: Facts = change(await read(*args, **kwargs))
            return facts

        monkeypatch.setattr("lambda_tasks.doctor.examination.read", read_and_change)
        found[id] = ids(operations.doctor())

    assert found == {id: {id} for id in MADE_UP}


def test_an_image_without_time_zones_or_hooks_of_snapshots_is_found(
    deployed: Deployment, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TIME_ZONE = "Mars/Olympus"
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", deployed.name)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", None)

    assert ids(operations.doctor()) == {"image.tzdata", "image.snapshot_hooks"}


OTHER_SIDE = """
def handler(event, context):
    assert event == {"lambda_tasks": "doctor"}
    return {"findings": FINDINGS, "tasks": ["shop.tasks.new"], "versions": {"django": "4.2.1"}}
"""


def test_the_function_is_asked_and_its_release_is_compared(deployed: Deployment) -> None:
    told = Finding(
        id="image.tzdata", severity="error", where="inside", found="none", why="...", fix="pip"
    )
    deployed.answer_with(OTHER_SIDE.replace("FINDINGS", repr([told.as_json()])))

    found = operations.doctor(inside=True)

    assert ids(found) == {"release.tasks", "release.versions", "image.tzdata"}
    (inside,) = [each for each in found if each.id == "image.tzdata"]
    assert inside.where == f"inside of function {deployed.name}: inside"
    texts = " ".join(each.found for each in found)
    assert "The function does not have lambda_tasks.tasks.answer_doctor, " in texts
    assert "This side does not have shop.tasks.new." in texts


def test_a_function_that_can_not_answer_is_found(deployed: Deployment) -> None:
    deployed.answer_with(
        "def handler(event, context):\n    raise ImportError('No module named shop')"
    )

    found = operations.doctor(inside=True)

    assert ids(found) == {"function.answer"}
    assert "No module named shop" in found[0].found


def test_a_rule_may_tick_instead_of_a_schedule(deployed: Deployment) -> None:
    FAULTS["tick.missing"](deployed)
    deployed.events.put_rule(Name=deployed.name, ScheduleExpression=aws_values.TICK_EXPRESSION)
    event = json.dumps(aws_values.TICK_EVENT)
    deployed.events.put_targets(
        Rule=deployed.name, Targets=[{"Id": "1", "Arn": deployed.arn, "Input": event}]
    )

    found = operations.doctor()
    deployed.events.remove_targets(Rule=deployed.name, Ids=["1"])

    assert found == []


def test_migrations_that_are_missing_here_or_there_are_found(deployed: Deployment) -> None:
    recorder = MigrationRecorder(connections["default"])
    recorder.record_applied("lambda_tasks", "0099_later")
    recorder.record_unapplied("sessions", "0001_initial")
    try:
        found = operations.doctor()
    finally:
        recorder.record_unapplied("lambda_tasks", "0099_later")
        recorder.record_applied("sessions", "0001_initial")

    assert {each.id: each.found for each in found} == {
        "database.migrations": "Not applied: sessions.0001_initial.",
        "release.older": "The database has lambda_tasks.0099_later, which this release does not "
        "know.",
    }


def test_dead_letters_of_tasks_that_are_gone_are_named(deployed: Deployment) -> None:
    for name in ("shop.tasks.gone", "tests.app.tasks.add"):
        text = json.dumps({"task_name": name, "kwargs": {}, "invocation_id": str(uuid.uuid4())})
        deployed.sqs.send_message(QueueUrl=deployed.dead_url, MessageBody=text)
    deployed.sqs.send_message(QueueUrl=deployed.dead_url, MessageBody="no message")

    found = operations.doctor(dead_letters=True)

    texts = {each.found for each in found if each.id == "dead_letters.unknown_tasks"}
    assert texts == {
        "1 of the first dead letters can't be read.",
        "1 of the first dead letters are of shop.tasks.gone, and there is no such task.",
    }
    assert "dead_letters.waiting" in ids(found)


def test_no_module_is_imported_because_a_dead_letter_names_it(
    deployed: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "django.contrib.sessions.management.commands.clearsessions"
    monkeypatch.delitem(sys.modules, module, raising=False)
    text = json.dumps({"task_name": f"{module}.Command", "kwargs": {}})
    deployed.sqs.send_message(QueueUrl=deployed.dead_url, MessageBody=text)

    found = operations.doctor(dead_letters=True)

    assert "dead_letters.unknown_tasks" in ids(found)
    assert module not in sys.modules


def test_dead_letters_that_were_looked_at_can_be_received_again(deployed: Deployment) -> None:
    deployed.sqs.send_message(QueueUrl=deployed.dead_url, MessageBody="{}")

    operations.doctor(dead_letters=True)

    again = deployed.sqs.receive_message(QueueUrl=deployed.dead_url)
    assert len(again["Messages"]) == 1


def test_an_alarm_on_the_tick_has_to_ring_without_data(deployed: Deployment) -> None:
    deployed.set_alarm("TickAlarm", TreatMissingData="notBreaching")

    (found,) = operations.doctor()

    assert (found.id, found.fix) == ("alarm.tick", "Set its TreatMissingData to breaching.")


def test_an_alarm_may_tell_somebody_by_another_alarm_on_it(deployed: Deployment) -> None:
    deployed.mute_alarm("TickAlarm")
    name = deployed.alarm_names["TickAlarm"]
    deployed.alarms.put_composite_alarm(
        AlarmName=deployed.name, AlarmRule=f'ALARM("{name}")',
        AlarmActions=[PARAMETERS["AlarmTopic"]], ActionsEnabled=True,
    )  # fmt: skip

    found = operations.doctor()
    deployed.alarms.delete_alarms(AlarmNames=[deployed.name])

    assert found == []


@pytest.mark.parametrize(
    "alarm",
    [
        {"Metrics": [{"Id": "sum", "Expression": "e * 2"}, {"Id": "e", "MetricStat": {"Metric": {
            "Namespace": "AWS/SQS", "MetricName": "ApproximateAgeOfOldestMessage",
            "Dimensions": [{"Name": "QueueName", "Value": "shop"}],
        }}}]},
        {"Namespace": "AWS/SQS", "MetricName": "ApproximateAgeOfOldestMessageInQuietGroups",
         "Dimensions": [{"Name": "QueueName", "Value": "shop"}]},
    ],
)  # fmt: skip
def test_an_alarm_may_calculate_with_a_metric_or_watch_a_part_of_it(alarm: Any) -> None:
    plan = QueuePlan(
        setting="default", name="shop", function_timeout_s=60, max_message_bytes=1024
    ).age_alarm

    assert Alarms([alarm], []).on(plan, "shop") == [alarm]
    assert Alarms([alarm], []).on(plan, "other") == []


def test_the_command_that_makes_an_alarm_makes_that_of_the_template(deployed: Deployment) -> None:
    FAULTS["alarm.function"](deployed)

    (found,) = operations.doctor()
    words = shlex.split(found.fix.partition(", where TOPIC")[0])
    options = dict(zip(words[3::2], words[4::2], strict=True))

    assert words[:3] == ["aws", "cloudwatch", "put-metric-alarm"]
    assert options["--datapoints-to-alarm"] == "2"
    assert json.loads(options["--ok-actions"]) == ["TOPIC"]
    deployed.set_alarm(
        "ErrorsAlarm",
        MetricName=options["--metric-name"],
        Dimensions=json.loads(options["--dimensions"]),
    )
    assert operations.doctor() == []


def test_a_refusal_of_aws_is_told_as_a_missing_permission(
    queue: str, sqs: LocalSqs, settings: Any
) -> None:
    # This SQS answers whatever is not SQS with AccessDenied.
    settings.LAMBDA_TASKS_AWS = sqs.client_options

    found = {each.id: each for each in operations.doctor() if "default" in each.where}

    assert found["queue.dead_letters"].is_checked
    assert not found["mapping.missing"].is_checked
    told = "Not checked: No permission for lambda:list_event_source_mappings. AccessDenied: "
    assert found["mapping.missing"].found.startswith(told)
    assert not found["mapping.filter"].is_checked
    assert not found["tick.missing"].is_checked


def test_the_doctor_judges_a_queue_as_queues_diff_does(sqs: LocalSqs, settings: Any) -> None:
    settings.LAMBDA_TASKS_AWS = sqs.client_options
    fifo, plain = (
        sqs.create_queue(f"{uuid.uuid4().hex}{end}", max_receive_count=5) for end in (".fifo", "")
    )
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": plain, "fifo": fifo}
    (denied,) = aws_values.tls_only_policy("*")["Statement"]
    denied["Condition"] = {"Bool": {"aws:SecureTransport": ["false"]}}
    mine = {"Sid": "Mine", "Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage"}
    for url, statement in ((fifo, denied), (plain, mine)):
        policy = aws_values.as_texts({"Policy": {"Statement": [statement]}})
        sqs.client.set_queue_attributes(QueueUrl=url, Attributes=policy)

    found = {(each.id, each.where): each for each in operations.doctor() if each.is_checked}

    assert found["queue.max_receive_count", "queue fifo"].expected == "20 or more."
    assert ("queue.max_receive_count", "queue default") not in found
    assert ("queue.tls", "queue fifo") not in found
    assert "Mine" in found["queue.tls", "queue default"].fix, "what is there stays"


def test_the_command_that_makes_a_tick_is_one(deployed: Deployment) -> None:
    FAULTS["tick.missing"](deployed)

    (found,) = operations.doctor()
    words = shlex.split(found.fix.partition(", where ROLE")[0])

    options = dict(zip(words[3::2], words[4::2], strict=True))
    target = json.loads(options["--target"])
    assert json.loads(target["Input"]) == aws_values.TICK_EVENT
    deployed.schedules.create_schedule(
        Name=options["--name"], ScheduleExpression=options["--schedule-expression"],
        FlexibleTimeWindow={"Mode": "OFF"}, Target=target,
    )  # fmt: skip
    again = operations.doctor()
    deployed.schedules.delete_schedule(Name=options["--name"])
    assert again == []


def test_a_call_goes_through_each_queue_or_is_missed(deployed: Deployment, settings: Any) -> None:
    missed = operations.doctor(round_trip=True, within=timedelta(seconds=2))
    settings.LAMBDA_TASKS_EAGER = True
    done = operations.doctor(round_trip=True)

    trips = [each for each in missed if each.id == "queue.round_trip"]
    assert {each.where for each in trips} >= {"queue default", "queue table"}
    assert "it has not ended in time." in trips[0].found
    assert "queue.round_trip" not in ids(done)


def test_each_check_is_tried() -> None:
    elsewhere = {
        "queue.unreachable", "aws.silent", "image.tzdata", "image.snapshot_hooks",
        "function.answer", "release.tasks", "release.versions", "queue.round_trip",
        "dead_letters.unknown_tasks",
        "database.migrations", "release.older",
        *(each.id for each in examination.JOB_CHECKS),  # tests/test_doctor_batch.py
    }  # fmt: skip

    assert {each.id for each in examination.CHECKS} == {*FAULTS, *MADE_UP, *elsewhere}


FIXABLE = (
    "queue.visibility_timeout", "queue.max_receive_count", "queue.dead_letter_retention",
    "queue.encryption", "queue.receive_wait", "queue.delay", "queue.max_message_size",
    "mapping.partial_batches",
)  # fmt: skip


def test_what_is_safe_is_fixed_at_once_and_a_second_time_there_is_nothing_to_do(
    deployed: Deployment,
) -> None:
    for id in FIXABLE:
        FAULTS[id](deployed)
    deployed.set_dead(RedriveAllowPolicy={"redrivePermission": "denyAll"})
    for id in ("tick.disabled", "queue.tls"):  # a person decides
        FAULTS[id](deployed)

    planned = verb("doctor", "--fix", "--dry-run", "--json")
    fixed = verb("doctor", "--fix", "--yes", "--json")
    again = verb("doctor", "--fix", "--yes", "--json")

    before = {each["id"] for each in planned.of_kind("finding")}
    assert before == {*FIXABLE, "queue.redrive_allow_policy", "tick.disabled", "queue.tls"}
    changes = [each["command"] for each in planned.of_kind("fixed")]
    assert [each["command"] for each in fixed.of_kind("fixed")] == changes
    assert any(
        each.startswith("aws lambda update-event-source-mapping --uuid")
        or "update-event-source-mapping" in each
        for each in changes
    )
    assert all(each["dry_run"] for each in planned.of_kind("fixed"))
    assert [each["id"] for each in fixed.of_kind("finding")] == ["tick.disabled", "queue.tls"]
    assert again.of_kind("fixed") == []
    assert (planned.code, fixed.code, again.code) == (4, 4, 4)


def test_the_exit_code_says_whether_an_error_was_found(deployed: Deployment) -> None:
    assert verb("doctor").code == 0
    deployed.set_function(MemorySize=256)
    assert verb("doctor", "--strict").code == 0
    deployed.set_schedule(ScheduleExpression="rate(10 minutes)")
    assert [verb("doctor").code, verb("doctor", "--strict").code] == [0, 4]
    deployed.set_mapping(Enabled=False)

    shown = verb("doctor")

    assert shown.code == 4
    assert "error: mapping of queue default to function" in shown.output
    assert "Found: 1 error, 1 warning, 1 info. Not checked: 0." in shown.output
    assert verb("doctor", "--ignore", "mapping").code == 0
    (summary,) = verb("doctor", "--ignore", "mapping.state", "--json").of_kind("doctor")
    assert summary == {
        "kind": "doctor", "status": "ok", "error": 0, "warning": 1, "info": 1, "unchecked": 0
    }  # fmt: skip


def test_what_can_not_be_read_is_not_healthy(deployed: Deployment, settings: Any) -> None:
    deployed.set_queue(DelaySeconds=5)
    operations.doctor()
    settings.LAMBDA_TASKS_AWS = settings.LAMBDA_TASKS_AWS | {"endpoint_url": "http://127.0.0.1:9"}

    shown = verb("doctor", "--json", "--ignore", "alarm")

    unchecked = {each["id"] for each in shown.of_kind("finding") if not each["is_checked"]}
    assert shown.code == 4
    of_aws = {each.id for each in examination.CHECKS if each.id.startswith(("queue.", "mapping."))}
    found = {each["id"] for each in shown.of_kind("finding") if each["is_checked"]}
    assert found == {"queue.unreachable", "aws.silent"}
    assert of_aws - unchecked == {"queue.unreachable", "queue.missing", "queue.round_trip"}
    assert {"function.timeout", "tick.missing", "aws.clock"} <= unchecked
    report = operations.last_report()
    assert report is not None
    assert [each["id"] for each in report.findings] == ["queue.delay"]
    assert (report.ignored, report.queues.keys()) == ([], {"default"})
    assert report.failed_at is not None
    assert report.at < report.failed_at
    (silent,) = (each for each in shown.of_kind("finding") if each["id"] == "aws.silent")
    assert report.failure in silent["found"]
    assert "127.0.0.1:9" in report.failure


def test_what_takes_too_long_is_not_checked(deployed: Deployment) -> None:
    deployed.sqs.send_message(QueueUrl=deployed.dead_url, MessageBody="{}")

    found = operations.doctor(round_trip=True, dead_letters=True, within=timedelta(microseconds=1))

    unchecked = {each.id for each in found if not each.is_checked}
    assert any("no time left" in each.found for each in found)
    assert {"queue.tls", "alarm.tick", "dead_letters.unknown_tasks"} <= unchecked
    assert "queue.unreachable" not in ids(found), "nobody knows"
    trips = [each for each in found if each.id == "queue.round_trip"]
    assert {each.found.partition(": ")[2] for each in trips} == {"it has not ended in time."}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--ignore", "queue.visibilty_timeout"], "Did you mean 'queue.visibility_timeout'?"),
        (["--within", "soon"], "is not a time with its unit"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(words: list[str], told: str) -> None:
    assert told in refused("doctor", *words)


@pytest.mark.usefixtures("_warm_handler")
def test_the_function_examines_itself(deployed: Deployment) -> None:
    FAULTS["mapping.missing"](deployed)  # so that only its context tells the function its name
    FAULTS["function.memory"](deployed)
    context: Any = LambdaContext(timeout_s=60)
    context.invoked_function_arn = deployed.arn

    answer = handler.handler({"lambda_tasks": "doctor"}, context)

    found = {each["id"] for each in answer["findings"] if each["is_checked"]}
    assert found == {"mapping.missing", "function.memory"}
    assert "tests.app.tasks.add" in answer["tasks"]
    assert set(answer["versions"]) == {"lambda_tasks", "django", "python"}
    json.dumps(answer)


def test_the_async_form_finds_the_same(deployed: Deployment) -> None:
    deployed.set_mapping(Enabled=False)

    assert ids(async_to_sync(operations.adoctor)()) == {"mapping.state"}


def test_the_page_of_the_doctor_has_each_check_with_its_reason_and_no_other() -> None:
    page = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (\w+) \| (.*) \| (.+) \|$", page, re.MULTILINE)
    listed = {id: severity for id, severity, _, _ in rows}
    unexplained = [each.id for each in examination.CHECKS if each.why not in page]

    assert listed == {each.id: each.severity for each in examination.CHECKS}
    assert unexplained == []
