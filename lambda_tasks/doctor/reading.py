"""Reads what the checks look at, as much as possible at the same time."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from django.core.checks import CheckMessage, run_checks

from .. import conf
from ..core.aws_values import QueuePlan
from ..database_calls import call_database
from ..deployment.planning import Plan, make_plan
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..queues.batch import BatchQueue
from ..queues.dead_letters import DeadLetterQueue
from ..queues.sqs import SQSQueue
from ..records import counts, server
from ..runtime import Runtime
from .aws import Aws, learn
from .dead_letters import DeadTasks, count_tasks
from .facts import (
    Alarms,
    Attributes,
    DeadLetters,
    Facts,
    LiveFunction,
    LiveJobs,
    LiveMapping,
    LiveQueue,
    System,
    batches_of,
    function_name,
    policy_of,
    region_of,
    unqualified,
)
from .findings import Fact, NotChecked

T = TypeVar("T")

SHIFT_S: Final = 60.0
"""Seconds that the shift of a relay lasts, which began so long before its end."""

MAX_ALARMS: Final = 100
"""The most alarms of one answer (DescribeAlarms, Amazon CloudWatch API reference)."""

Mappings = Sequence[Mapping[str, Any]]


async def read(
    runtime: Runtime, *, own_arn: str | None, dead_letters: bool, deadline: float
) -> Facts:
    """Return all that can be read until a time of `time.monotonic()`, with reasons for the rest.

    `own_arn` is the ARN of the function that this is running in. With `dead_letters`, some of each
    queue are received. Raises ImproperlyConfigured for settings that are invalid.
    """
    plan = await call_database(make_plan)
    reader = _Reader(runtime, plan, deadline)
    sqs = [each for each in conf.current().queues.values() if isinstance(each, SQSQueue)]
    mapped = await asyncio.gather(*map(reader.mappings, sqs))
    functions = await reader.functions(mapped, own_arn)
    queues = await asyncio.gather(
        *(reader.queue(*each, functions) for each in zip(sqs, mapped, strict=True))
    )
    mappings = [
        LiveMapping(each, queue, functions[each["FunctionArn"]])
        for queue in queues
        for each in queue.mappings.known or ()
    ]
    jobs = await asyncio.gather(*map(reader.jobs, plan.batch_queues))
    unread = next((each.error for each in mapped if each.error), None)
    system = await reader.system(Fact(mappings, unread))
    # After the queues: what is received here counts as in flight for a while.
    dead = await asyncio.gather(*map(reader.dead_tasks, queues)) if dead_letters else []
    return Facts(system, queues, mappings, list(functions.values()), jobs, dead)


class _Reader:
    """The reads of one examination."""

    def __init__(self, runtime: Runtime, plan: Plan, deadline: float) -> None:
        self._runtime = runtime
        self._plan = plan
        self._deadline = deadline
        self._regions: dict[str, Aws] = {}
        self._alarms: dict[str, asyncio.Task[Fact[Alarms]]] = {}

    async def mappings(self, queue: SQSQueue) -> Fact[Mappings]:
        """Read the event source mappings of a queue."""
        operation, items = "list_event_source_mappings", "EventSourceMappings"
        listed = self._aws(queue.arn).pages("lambda", operation, items, EventSourceArn=queue.arn)
        return await learn(listed)

    async def alarms(self, region: str) -> Fact[Alarms]:
        """Read the alarms of a region, once."""
        if region not in self._alarms:
            self._alarms[region] = asyncio.ensure_future(learn(_alarms(self._in(region))))
        return await self._alarms[region]

    async def functions(
        self, mapped: Iterable[Fact[Mappings]], own_arn: str | None
    ) -> dict[str, LiveFunction]:
        """Read the functions that consume queues, by the ARNs that their mappings name."""
        found = list(mapped)
        mappings = [each for fact in found for each in fact.known or ()]
        arns = {each["FunctionArn"] for each in mappings}
        if own_arn and unqualified(own_arn) not in map(unqualified, arns):
            arns.add(own_arn)
        unread = next((fact.error for fact in found if fact.error), None)
        functions = await asyncio.gather(
            *(self._function(arn, Fact(_batches(arn, mappings), unread)) for arn in arns)
        )
        return {each.arn: each for each in functions}

    async def _function(self, arn: str, batches: Fact[int | None]) -> LiveFunction:
        aws, name = self._aws(arn), function_name(arn)
        configuration, reserved, recursive_loop, ticks = await asyncio.gather(
            learn(aws.call("lambda", "get_function_configuration", FunctionName=arn)),
            learn(_reserved(aws, name)),
            learn(_recursive_loop(aws, name)),
            learn(_ticks(aws, arn)),
        )
        log_group = await learn(_log_group(aws, name, configuration))
        return LiveFunction(
            arn=arn,
            region=aws.region,
            plan=self._plan,
            batches=batches,
            configuration=configuration,
            reserved=reserved,
            recursive_loop=recursive_loop,
            log_group=log_group,
            ticks=ticks,
            alarms=await self.alarms(aws.region),
        )

    async def queue(
        self, queue: SQSQueue, mapped: Fact[Mappings], functions: Mapping[str, LiveFunction]
    ) -> LiveQueue:
        """Read a queue and its dead letters."""
        attributes = await learn(self._attributes(queue, queue.queue_url))
        return LiveQueue(
            queue,
            self._plan_of(queue),
            region_of(queue.arn),
            attributes,
            await learn(self._dead_letters(queue, attributes)),
            mapped,
            await learn(_timeouts_s(mapped, functions)),
            await self.alarms(region_of(queue.arn)),
        )

    async def jobs(self, queue: BatchQueue) -> LiveJobs:
        """Read what a queue of AWS Batch names."""
        aws = self._in(queue.region)
        job_queue, definition = await asyncio.gather(
            learn(_job_queue(aws, queue.job_queue_arn)),
            learn(_job_definition(aws, queue.job_definition_arn)),
        )
        environments = await learn(_environments(aws, job_queue))
        return LiveJobs(queue, self._plan, job_queue, environments, definition)

    async def dead_tasks(self, live: LiveQueue) -> DeadTasks:
        """Look at some dead letters of a queue."""
        return DeadTasks(live.queue.name, await learn(self._count_dead_tasks(live)))

    async def _count_dead_tasks(self, live: LiveQueue) -> Mapping[str | None, int]:
        if (dead := live.dead_letters.value) is None:
            return {}
        letters = DeadLetterQueue(live.queue.client(self._runtime), dead.url)
        return await count_tasks(self._in(live.region), letters)

    def _plan_of(self, queue: SQSQueue) -> QueuePlan:
        # Queues of the settings that share one in AWS have one plan.
        return next(each for each in self._plan.queues if each.name == queue.queue_name)

    async def _attributes(self, queue: SQSQueue, url: str) -> Attributes:
        found: Attributes = (
            await self._ask_sqs(queue, "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])
        ).get("Attributes", {})
        return found

    async def _dead_letters(self, queue: SQSQueue, found: Fact[Attributes]) -> DeadLetters | None:
        arn = policy_of(found.value, "RedrivePolicy").get("deadLetterTargetArn")
        if not arn:
            return None
        # It is in the queue's own account and region (CreateQueue, Amazon SQS API reference).
        url = queue.sibling_url(arn.rpartition(":")[2])
        return DeadLetters(url, await self._attributes(queue, url))

    async def _ask_sqs(self, queue: SQSQueue, operation: str, **parameters: Any) -> Any:
        # By the queue's own client, which finds hosts that are unusual.
        request = partial(queue.client(self._runtime).call, operation, **parameters)
        return await self._aws(queue.arn).ask(f"sqs:{operation}", request)

    async def system(self, mappings: Fact[Sequence[LiveMapping]]) -> System:
        """Read what the database knows, and compare the clocks."""
        return System(
            plan=self._plan,
            server=await self._ask_here(server.describe),
            database_ahead_s=await self._ask_here(_database_ahead_s),
            aws_ahead_s=self._aws_ahead_s(),
            aws_refusal=self._aws_refusal(),
            migrations=await self._ask_here(server.compare_migrations),
            last_round_s=await self._ask_here(_last_round_s),
            waiting_tasks=await self._ask_here(_waiting_tasks),
            mappings=mappings,
            check_messages=await self._ask_here(_check_messages),
        )

    async def _ask_here(self, ask: Callable[[], T]) -> Fact[T]:
        """Ask the project or its database, for as long as there is time."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            return Fact(error=NotChecked("There was no time left."))
        limit_s = min(left_s, LIBRARY_STATEMENT_LIMIT_S)
        return await learn(call_database(ask, limit_s=limit_s))

    def _aws_ahead_s(self) -> Fact[float]:
        ahead = [each.clock_ahead_s for each in self._regions.values()]
        known = [each for each in ahead if each is not None]
        if ahead and not known:
            return Fact(error=NotChecked("AWS has not answered."))
        return Fact(max(known, key=abs, default=0.0))

    def _aws_refusal(self) -> str:
        regions = self._regions.values()
        if any(each.has_answered for each in regions):
            return ""
        return next((str(each.first_refusal) for each in regions if each.first_refusal), "")

    def _aws(self, arn: str) -> Aws:
        return self._in(region_of(arn))

    def _in(self, region: str) -> Aws:
        if region not in self._regions:
            self._regions[region] = Aws(self._runtime, region, deadline=self._deadline)
        return self._regions[region]


def _batches(arn: str, mappings: Mappings) -> int | None:
    numbers = [batches_of(each) for each in mappings if each["FunctionArn"] == arn]
    limited = [each for each in numbers if each is not None]
    return sum(limited) if len(limited) == len(numbers) else None


async def _timeouts_s(
    mapped: Fact[Mappings], functions: Mapping[str, LiveFunction]
) -> Sequence[int]:
    arns = [each["FunctionArn"] for each in mapped.value]
    return [int(functions[arn].configuration.value["Timeout"]) for arn in arns]


async def _reserved(aws: Aws, name: str) -> int | None:
    answer = await aws.call("lambda", "get_function_concurrency", FunctionName=name)
    found: int | None = answer.get("ReservedConcurrentExecutions")
    return found


async def _recursive_loop(aws: Aws, name: str) -> str:
    answer = await aws.call("lambda", "get_function_recursion_config", FunctionName=name)
    found: str = answer["RecursiveLoop"]
    return found


async def _ticks(aws: Aws, arn: str) -> Sequence[Mapping[str, Any]]:
    """Return what invokes a function by time: schedules of EventBridge Scheduler, else rules."""
    if schedules := await _schedules(aws, unqualified(arn)):
        return schedules
    targets = sorted({arn, unqualified(arn)})  # an alias is a target of its own
    return [rule for target in targets for rule in await _rules(aws, target)]


async def _schedules(aws: Aws, function: str) -> Sequence[Mapping[str, Any]]:
    listed = await aws.pages("scheduler", "list_schedules", "Schedules")
    found = await asyncio.gather(
        *(
            aws.call("scheduler", "get_schedule", Name=each["Name"], GroupName=each["GroupName"])
            for each in listed
            if unqualified(each["Target"]["Arn"]) == function
        )
    )
    return list(found)


async def _rules(aws: Aws, arn: str) -> Sequence[Mapping[str, Any]]:
    """Return the rules of EventBridge, the older way, in the form of schedules."""
    answer = await aws.call("events", "list_rule_names_by_target", TargetArn=arn)
    found: list[Mapping[str, Any]] = []
    for name in answer.get("RuleNames", ()):
        rule = await aws.call("events", "describe_rule", Name=name)
        targets = await aws.call("events", "list_targets_by_rule", Rule=name)
        found += [{**rule, "Target": each} for each in targets["Targets"] if each["Arn"] == arn]
    return [each for each in found if each.get("ScheduleExpression")]


async def _alarms(aws: Aws) -> Alarms:
    metric, composite = await asyncio.gather(
        _alarms_of(aws, "MetricAlarm"), _alarms_of(aws, "CompositeAlarm")
    )
    return Alarms(metric, composite)


async def _alarms_of(aws: Aws, type: str) -> Sequence[Mapping[str, Any]]:
    listed = {"AlarmTypes": [type], "MaxRecords": MAX_ALARMS}
    return await aws.pages("cloudwatch", "describe_alarms", f"{type}s", **listed)


async def _job_queue(aws: Aws, arn: str) -> Mapping[str, Any] | None:
    answer = await aws.call("batch", "describe_job_queues", jobQueues=[arn])
    return next(iter(answer["jobQueues"]), None)


async def _environments(
    aws: Aws, job_queue: Fact[Mapping[str, Any] | None]
) -> Sequence[Mapping[str, Any]]:
    order = (job_queue.value or {}).get("computeEnvironmentOrder") or ()
    if not order:
        return ()
    arns = [each["computeEnvironment"] for each in order]
    answer = await aws.call("batch", "describe_compute_environments", computeEnvironments=arns)
    found: Sequence[Mapping[str, Any]] = answer["computeEnvironments"]
    return found


async def _job_definition(aws: Aws, arn: str) -> Mapping[str, Any] | None:
    name, _, revision = arn.rpartition("/")[2].partition(":")
    # Without a revision, a job is of the latest active one.
    latest: dict[str, Any] = {"jobDefinitionName": name, "status": "ACTIVE"}
    which: dict[str, Any] = {"jobDefinitions": [arn]} if revision else latest
    answer = await aws.call("batch", "describe_job_definitions", **which)
    return max(answer["jobDefinitions"], key=lambda each: int(each["revision"]), default=None)


async def _log_group(
    aws: Aws, name: str, configuration: Fact[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    config = configuration.value.get("LoggingConfig") or {}
    group = config.get("LogGroup") or f"/aws/lambda/{name}"
    answer = await aws.call("logs", "describe_log_groups", logGroupNamePrefix=group)
    named = [each for each in answer.get("logGroups", []) if each["logGroupName"] == group]
    return named[0] if named else None


def _check_messages() -> Sequence[CheckMessage]:
    found = run_checks(tags=["lambda_tasks"], include_deployment_checks=True)
    return [each for each in found if not each.is_silenced()]


def _database_ahead_s() -> float:
    asked_at = time.time()
    there = server.read_time()
    return there.timestamp() - (asked_at + time.time()) / 2


def _last_round_s() -> float | None:
    last = counts.last_round()
    if last is None:
        return None
    return max((server.read_time() - last).total_seconds() + SHIFT_S, 0.0)


def _waiting_tasks() -> Mapping[str, int]:
    counted = counts.count(timedelta(minutes=1), timedelta(minutes=20))
    found: Counter[str] = Counter()
    for each in counted.unfinished:
        if each.state in (counts.WAITING, counts.DELAYED):
            found[each.task_name] += each.n
    return found
