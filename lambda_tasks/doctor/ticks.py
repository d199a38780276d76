"""The tick, which enqueues what schedules have due and sends what was left."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..core.aws_values import (
    TICK_EVENT,
    TICK_EXPRESSION,
    TICK_MAX_AGE_S,
    TICK_RETRIES,
    TICK_STOPPED_AFTER,
)
from .facts import LiveFunction, System
from .findings import Found, check

WHY: Final = (
    "Without a tick no schedule runs, and calls with long delays and messages that were left wait."
)


@check("tick.missing", "error", why=WHY)
def missing(function: LiveFunction) -> Iterator[Found]:
    """Yield that no schedule ticks."""
    if not any(map(is_tick, function.ticks.value)):
        others = ", ".join(each["Name"] for each in function.ticks.value)
        target = {
            "Arn": function.arn,
            "RoleArn": "ROLE",
            "Input": json.dumps(TICK_EVENT),
            "RetryPolicy": {
                "MaximumRetryAttempts": TICK_RETRIES,
                "MaximumEventAgeInSeconds": TICK_MAX_AGE_S,
            },
        }
        yield Found(
            f"No schedule invokes it with {json.dumps(TICK_EVENT)}"
            + (f"; other events come from {others}." if others else "."),
            f"A schedule of EventBridge, {TICK_EXPRESSION}.",
            "aws scheduler create-schedule --name lambda-tasks-tick --schedule-expression "
            f"'{TICK_EXPRESSION}' --flexible-time-window Mode=OFF --region {function.region} "
            f"--target '{json.dumps(target)}', where ROLE is the ARN of a role that EventBridge "
            "Scheduler may assume, and that may invoke the function",
            "AWS::Scheduler::Schedule",
        )


@check("tick.disabled", "error", why=WHY)
def disabled(function: LiveFunction) -> Iterator[Found]:
    """Yield that the schedules that tick are disabled."""
    ticks = [each for each in function.ticks.value if is_tick(each)]
    if ticks and not any(each.get("State", "ENABLED") == "ENABLED" for each in ticks):
        names = ", ".join(each["Name"] for each in ticks)
        yield Found(
            f"The schedule {names} is disabled.",
            "Enabled.",
            "Enable it in EventBridge, once what it was disabled for is over.",
            "State: ENABLED",
        )


@check(
    "tick.rate",
    "warning",
    why="What is due runs up to a whole interval late, as each tick enqueues what is due within "
    "two minutes.",
)
def rate(function: LiveFunction) -> Iterator[Found]:
    """Yield that the tick comes in another rhythm than once a minute."""
    for each in filter(is_tick, function.ticks.value):
        if each["ScheduleExpression"] not in (TICK_EXPRESSION, "cron(* * * * ? *)"):
            yield Found(
                f"The schedule {each['Name']} is {each['ScheduleExpression']}.",
                f"{TICK_EXPRESSION}.",
                f"Set its expression to {TICK_EXPRESSION}.",
                f"ScheduleExpression: {TICK_EXPRESSION}",
            )


@check("tick.age", "error", why=WHY)
def age(system: System) -> Iterator[Found]:
    """Yield that the last tick is long ago."""
    found_s = system.last_round_s.value
    if found_s is not None and found_s <= TICK_STOPPED_AFTER * 60:
        return
    yield Found(
        "Nobody has ever ticked." if found_s is None else f"The last tick was {found_s:.0f} s ago.",
        f"{TICK_STOPPED_AFTER} minutes ago at most.",
        "Let EventBridge Scheduler invoke the function once a minute, run a worker, or let cron "
        "call manage.py lambda_tasks tick. If it does, look into the function's log.",
    )


FUNCTION_CHECKS: Final = (missing, disabled, rate)

SYSTEM_CHECKS: Final = (age,)


def is_tick(schedule: Mapping[str, Any]) -> bool:
    """Return whether a schedule sends the event of the tick."""
    try:
        event = json.loads(schedule["Target"].get("Input") or "null")
    except ValueError:
        return False
    return bool(event == TICK_EVENT)
