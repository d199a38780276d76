"""Alarms of CloudWatch: whether somebody hears of what goes wrong."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ..core.aws_values import FAILURE_ALARMS, TICK_ALARM, AlarmPlan
from .facts import Alarms, LiveFunction, LiveQueue
from .findings import Change, Found, check
from .ticks import is_tick


@check(
    "alarm.queue",
    "warning",
    why="Nobody hears that messages wait, or that dead letters do, which are deleted in the end.",
)
def of_queue(queue: LiveQueue) -> Iterator[Found]:
    """Yield that nothing watches the age of its messages, or its dead letters."""
    alarms, plan = queue.alarms.value, queue.plan
    yield from _unheard(alarms, plan.age_alarm, queue.queue.queue_name, queue.region)
    if (dead := queue.dead_letters.value) is not None:
        name = dead.url.rpartition("/")[2]
        yield from _unheard(alarms, plan.dead_letters_alarm, name, queue.region)


@check(
    "alarm.tick",
    "warning",
    why="Where the tick stops, nothing fails: what it would have done is missing, and nothing else "
    "tells of that.",
)
def of_tick(function: LiveFunction) -> Iterator[Found]:
    """Yield that nothing watches the tick of a function."""
    if any(map(is_tick, function.ticks.value)):
        yield from _unheard(function.alarms.value, TICK_ALARM, function.name, function.region)


@check(
    "alarm.function",
    "warning",
    why="Nobody hears that no cold start succeeds, or that the account has no concurrency left.",
)
def of_function(function: LiveFunction) -> Iterator[Found]:
    """Yield that nothing watches the errors or the throttles of a function."""
    for plan in FAILURE_ALARMS:
        yield from _unheard(function.alarms.value, plan, function.name, function.region)


QUEUE_CHECKS: Final = (of_queue,)

FUNCTION_CHECKS: Final = (of_tick, of_function)


def _unheard(alarms: Alarms, plan: AlarmPlan, watched: str, region: str) -> Iterator[Found]:
    """Yield that no alarm on a metric would tell anybody."""
    there = alarms.on(plan, watched)
    loud = [each for each in there if alarms.tells_somebody(each)]
    if not there:
        yield Found(
            f"No alarm watches {plan.metric} of {watched}.",
            "An alarm that notifies somebody.",
            f"{_put(plan, watched, region)}, where TOPIC is the ARN of an SNS topic",
            "AWS::CloudWatch::Alarm",
        )
    elif not loud:
        yield Found(
            f"The alarm {_names(there)} tells nobody.",
            "It has an action, and its actions are enabled.",
            f"aws cloudwatch enable-alarm-actions --alarm-names {there[0]['AlarmName']} "
            f"--region {region}; or add the ARN of an SNS topic to its AlarmActions",
            "AlarmActions: [!Ref AlarmTopic]",
        )
    elif plan.missing_data == "breaching" and not any(map(_rings_without_data, loud)):
        yield Found(
            f"The alarm {_names(loud)} does not ring where there is no data.",
            "It does: what has stopped has none.",
            f"Set its TreatMissingData to {plan.missing_data}.",
            f"TreatMissingData: {plan.missing_data}",
        )


def _rings_without_data(alarm: Mapping[str, Any]) -> bool:
    return bool(alarm.get("TreatMissingData") == "breaching")


def _names(alarms: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(each["AlarmName"] for each in alarms)


def _put(plan: AlarmPlan, watched: str, region: str) -> Change:
    parameters = {
        "AlarmName": f"{watched}-{re.sub('(?<=[a-z])(?=[A-Z])', '-', plan.name).lower()}",
        "Dimensions": [{"Name": plan.dimension, "Value": watched}],
        **plan.properties(),
        "AlarmActions": ["TOPIC"],
        "OKActions": ["TOPIC"],
    }
    return Change("cloudwatch", "put_metric_alarm", parameters, region)
