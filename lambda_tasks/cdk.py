"""The construct for AWS CDK: what this project needs on AWS, by its settings.

    code = DockerImageCode.from_image_asset(".")
    tasks = LambdaTasks(self, "Tasks", code=code, alarm_topic=topic)
    tasks.grant_send(web_role)

It has the queues, function, tick, alarms and permissions of `template sam`, with the same values.
"""
# pyright: reportMissingImports=false

import os
from collections.abc import Mapping
from typing import Any

import django
from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_scheduler_targets as targets
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct
from django.apps import apps

from .core import aws_values
from .core.aws_values import AlarmPlan, QueuePlan
from .deployment.planning import make_plan


class LambdaTasks(Construct):  # type: ignore[misc] # the package is not there where types are checked
    """The queues, function, tick and alarms of this project.

    The settings are those of the environment variable DJANGO_SETTINGS_MODULE. `code` is the image,
    and `alarm_topic` is notified by the alarms. `prefix` precedes the queues' names. With
    `pollers`, a maximum, each queue has provisioned pollers in place of `max_concurrency`. With
    `snapstart`, functions start from a snapshot of the current version. More options of the
    function, such as `vpc_subnets`, go into `function_options`.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        code: lambda_.DockerImageCode,
        alarm_topic: sns.ITopic,
        prefix: str = "",
        environment: Mapping[str, str] | None = None,
        vpc: ec2.IVpc | None = None,
        kms_key: kms.IKey | None = None,
        max_concurrency: int = aws_values.CONCURRENCY,
        pollers: int | None = None,
        snapstart: bool = False,
        function_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(scope, id)
        if not apps.ready:
            django.setup()
        self._plan = make_plan(prefix=prefix)
        self._alarm = actions.SnsAction(alarm_topic)
        self._kms_key = kms_key
        self.function = lambda_.DockerImageFunction(
            self,
            "Function",
            code=code,
            architecture=lambda_.Architecture.ARM_64,
            memory_size=aws_values.MEMORY_MB,
            timeout=Duration.seconds(self._plan.function_timeout_s),
            environment={
                "DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"],
                "STAGE_PREFIX": prefix,
                "AWS_ACCOUNT_ID": Stack.of(self).account,  # Lambda does not set it
                **(environment or {}),
            },
            log_group=logs.LogGroup(self, "Logs", retention=logs.RetentionDays.ONE_MONTH),
            vpc=vpc,
            **(function_options or {}),
        )
        """The function, which anything may be granted to."""
        if snapstart:
            self.function.node.default_child.snap_start = {"applyOn": "PublishedVersions"}
        self.target = self.function.add_alias("live") if snapstart else self.function
        """What queues and tick call: the function, or with `snapstart` its alias."""
        self.dead_letters: dict[str, sqs.Queue] = {}
        """The dead-letter queues, by the names of their queues in LAMBDA_TASKS_QUEUES."""
        self.queues: dict[str, sqs.Queue] = {}
        """The queues, by their names in LAMBDA_TASKS_QUEUES."""
        for plan in self._plan.queues:
            self._add_queue(plan)
            self._feed(plan, max_concurrency=max_concurrency, pollers=pollers)
            self._watch(plan)
        self._allow_jobs(self.function, is_producer=False)
        self._add_tick()
        for alarm in (aws_values.TICK_ALARM, *aws_values.FAILURE_ALARMS):
            self._add_alarm(f"{alarm.name}Alarm", alarm, self.function.function_name)

    def grant_send(self, grantee: iam.IGrantable) -> None:
        """Let a role enqueue tasks: that of the web processes, for example."""
        for queue in self.queues.values():
            queue.grant_send_messages(grantee)
        self._allow_jobs(grantee, is_producer=True)

    def _add_queue(self, plan: QueuePlan) -> None:
        own_arn = Stack.of(self).format_arn(service="sqs", resource=plan.name)
        self.dead_letters[plan.setting] = dead_letters = sqs.Queue(
            self,
            f"{plan.setting}-dead-letters",
            queue_name=plan.dead_letter_name,
            retention_period=Duration.seconds(aws_values.DEAD_LETTER_RETENTION_S),
            # By its ARN: the queue itself needs its dead-letter queue first.
            redrive_allow_policy=sqs.RedriveAllowPolicy(
                redrive_permission=sqs.RedrivePermission.BY_QUEUE,
                source_queues=[sqs.Queue.from_queue_arn(self, f"{plan.setting}-source", own_arn)],
            ),
            **self._shared_options(plan),
        )
        self.queues[plan.setting] = sqs.Queue(
            self,
            f"{plan.setting}-queue",
            queue_name=plan.name,
            visibility_timeout=Duration.seconds(plan.visibility_timeout_s),
            retention_period=Duration.seconds(aws_values.RETENTION_S),
            receive_message_wait_time=Duration.seconds(aws_values.RECEIVE_WAIT_S),
            dead_letter_queue=sqs.DeadLetterQueue(
                queue=dead_letters, max_receive_count=plan.max_receive_count
            ),
            **self._shared_options(plan),
        )

    def _shared_options(self, plan: QueuePlan) -> dict[str, Any]:
        encryption: dict[str, Any] = {"encryption": sqs.QueueEncryption.SQS_MANAGED}
        if self._kms_key:
            encryption = {
                "encryption": sqs.QueueEncryption.KMS,
                "encryption_master_key": self._kms_key,
                "data_key_reuse": Duration.seconds(aws_values.KEY_REUSE_S),
            }
        fifo = {
            "fifo": True,
            "deduplication_scope": sqs.DeduplicationScope.MESSAGE_GROUP,
            "fifo_throughput_limit": sqs.FifoThroughputLimit.PER_MESSAGE_GROUP_ID,
        }
        return {
            "max_message_size_bytes": plan.max_message_bytes,
            "enforce_ssl": True,
            "removal_policy": RemovalPolicy.RETAIN,
            **encryption,
            **(fifo if plan.is_fifo else {}),
        }

    def _feed(self, plan: QueuePlan, *, max_concurrency: int, pollers: int | None) -> None:
        queue = self.queues[plan.setting]
        limit: dict[str, Any] = {"max_concurrency": max_concurrency}
        if pollers is not None:
            limit = {
                "provisioned_poller_config": lambda_.ProvisionedPollerConfig(
                    minimum_pollers=aws_values.MIN_POLLERS, maximum_pollers=pollers
                )
            }
        self.target.add_event_source(
            event_sources.SqsEventSource(
                queue,
                batch_size=aws_values.BATCH_SIZE,
                report_batch_item_failures=True,
                metrics_config=lambda_.MetricsConfig(metrics=[lambda_.MetricType.EVENT_COUNT]),
                **limit,
            )
        )
        queue.grant_send_messages(self.function)

    def _watch(self, plan: QueuePlan) -> None:
        name = plan.setting
        for alarm, watched in (
            (plan.dead_letters_alarm, self.dead_letters[name]),
            (plan.age_alarm, self.queues[name]),
        ):
            self._add_alarm(f"{name}-{alarm.name}-alarm", alarm, watched.queue_name)

    def _add_tick(self) -> None:
        scheduler.Schedule(
            self,
            "Tick",
            description="The tick of lambda_tasks",
            schedule=scheduler.ScheduleExpression.expression(aws_values.TICK_EXPRESSION),
            target=targets.LambdaInvoke(
                self.target,
                input=scheduler.ScheduleTargetInput.from_object(dict(aws_values.TICK_EVENT)),
                retry_attempts=aws_values.TICK_RETRIES,
                max_event_age=Duration.seconds(aws_values.TICK_MAX_AGE_S),
            ),
        )
        self.target.configure_async_invoke(
            retry_attempts=aws_values.TICK_RETRIES,
            max_event_age=Duration.seconds(aws_values.TICK_MAX_AGE_S),
        )

    def _add_alarm(self, id: str, plan: AlarmPlan, watched: str) -> None:
        alarm = cloudwatch.Alarm(
            self,
            id,
            metric=cloudwatch.Metric(
                namespace=plan.namespace,
                metric_name=plan.metric,
                dimensions_map={plan.dimension: watched},
                statistic=plan.statistic,
                period=Duration.seconds(aws_values.ALARM_PERIOD_S),
            ),
            alarm_description=plan.description,
            evaluation_periods=plan.minutes,
            datapoints_to_alarm=plan.minutes_over,
            threshold=plan.threshold,
            comparison_operator=_COMPARISONS[plan.comparison],
            treat_missing_data=_MISSING_DATA[plan.missing_data],
        )
        alarm.add_alarm_action(self._alarm)
        alarm.add_ok_action(self._alarm)

    def _allow_jobs(self, grantee: iam.IGrantable, *, is_producer: bool) -> None:
        queues = [each for each in self._plan.batch_queues if each.direct or not is_producer]
        arns = sorted({arn for each in queues for arn in each.arns})
        if arns:
            grantee.grant_principal.add_to_principal_policy(
                iam.PolicyStatement(actions=["batch:SubmitJob"], resources=arns)
            )


_COMPARISONS = {
    "GreaterThanThreshold": cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
    "LessThanThreshold": cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD,
}

_MISSING_DATA = {
    "breaching": cloudwatch.TreatMissingData.BREACHING,
    "notBreaching": cloudwatch.TreatMissingData.NOT_BREACHING,
}
