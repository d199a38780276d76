"""The project itself: its settings, its tasks, its image, and what its queues cost."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.conf import settings as django_settings
from django.core.checks import ERROR, WARNING, CheckMessage

from .. import registry
from ..core.aws_values import MIN_POLLERS
from .facts import System, is_inside
from .findings import Found, Severity, check

IDLE_REQUESTS: Final = 650_000
"""The polls of an event source mapping in a month in which nothing waits: five at a time, each of
20 seconds (Using Lambda with Amazon SQS, AWS Lambda developer guide)."""

MAX_IDLE_REQUESTS: Final = 5_000_000
"""The polls in a month from which on their cost is worth a word: a few dollars."""


@check(
    "settings.check",
    "error",
    why="Mistakes in settings, tasks and databases fail calls and tasks; manage.py check "
    "--deploy finds them before that.",
)
def settings(system: System) -> Iterator[Found]:
    """Yield what the system checks of the library find."""
    for each in system.check_messages.value:
        yield Found(
            f"{each.id}: {each.msg}",
            "No message of manage.py check --deploy.",
            each.hint or "See the message.",
            severity=_severity(each),
        )


def _severity(message: CheckMessage) -> Severity:
    if message.level >= ERROR:
        return "error"
    return "warning" if message.level >= WARNING else "info"


@check("image.tzdata", "error", why="Without time zones, schedules and dates of the project fail.")
def time_zones(system: System) -> Iterator[Found]:
    """Yield that the image lacks the database of time zones."""
    for name in sorted({"UTC", django_settings.TIME_ZONE}):
        try:
            ZoneInfo(name)
        except ZoneInfoNotFoundError:
            yield Found(
                f"Python finds no time zone {name!r}.",
                "The time zones of the system, or of the package tzdata.",
                "pip install tzdata",
            )


@check(
    "image.snapshot_hooks",
    "error",
    why="All functions that come from one snapshot share its connections and its random numbers.",
)
def snapshot_hooks(system: System) -> Iterator[Found]:
    """Yield that a function with SnapStart hears of no snapshot."""
    is_restored = os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"
    if is_inside() and is_restored and find_spec("snapshot_restore_py") is None:
        yield Found(
            "SnapStart is on, and the image has no snapshot_restore_py.",
            "The package snapshot-restore-py, which AWS's own images have.",
            "pip install snapshot-restore-py",
        )


@check(
    "release.unknown_tasks",
    "error",
    why="A call whose task this side does not have waits for a release that has it, and is given "
    "up after LAMBDA_TASKS_DEPLOYMENT_GRACE.",
)
def unknown_tasks(system: System) -> Iterator[Found]:
    """Yield that calls wait whose tasks this side does not have."""
    for name, number in sorted(system.waiting_tasks.value.items()):
        if registry.find_task(name) is None:
            yield Found(
                f"{number:,} calls of {name} wait, and there is no such task.",
                "Each side has every task that is called, under its name or as an alias.",
                "Deploy the release that has it; or keep the old name in aliases of the task.",
            )


@check("cost.polling", "info", why="Each queue is polled also where nothing waits.")
def polling(system: System) -> Iterator[Found]:
    """Yield that polls of idle queues cost more than a few dollars."""
    mappings = system.mappings.value
    provisioned = [each for each in mappings if each.mapping.get("ProvisionedPollerConfig")]
    requests = IDLE_REQUESTS * (len(mappings) - len(provisioned))
    if requests > MAX_IDLE_REQUESTS:
        yield Found(
            f"{len(mappings)} mappings poll about {requests:,} times a month where nothing waits.",
            f"{MAX_IDLE_REQUESTS:,} times or less.",
            "Use fewer queues: tasks of one priority can share one.",
        )
    for each in provisioned:
        least = int(each.mapping["ProvisionedPollerConfig"].get("MinimumPollers", 0))
        if least > MIN_POLLERS:
            yield Found(
                f"The {each} keeps {least} pollers, which are paid for each hour.",
                f"{MIN_POLLERS}, unless a queue that fills within seconds must not wait for more.",
                f"aws lambda update-event-source-mapping --uuid {each.id} "
                f"--provisioned-poller-config MinimumPollers={MIN_POLLERS} "
                f"--region {each.function.region}",
                f"ProvisionedPollerConfig: {{MinimumPollers: {MIN_POLLERS}}}",
            )


CHECKS: Final = (settings, time_zones, snapshot_hooks, unknown_tasks, polling)
