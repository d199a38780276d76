"""One tick: enqueue what schedules have due within two minutes, and send what was left.

Let cron or a Kubernetes CronJob call it once a minute, where neither a worker nor a tick event of
the function does. Exit code: 0 if it ended, 1 for a mistake in the settings or without `migrate`.
"""

from argparse import ArgumentParser
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.core.management.base import OutputWrapper

from lambda_tasks import runtime
from lambda_tasks.management.output import counted
from lambda_tasks.records import queries

HELP: Final = "Enqueues what schedules have due, and sends messages that were left."


def add_arguments(parser: ArgumentParser) -> None:
    """Add no options."""


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Tick once, print what was done, and return 0. Raises NotMigrated without `migrate`."""
    queries.check_migrated()
    here = runtime.current()
    async_to_sync(here.relay_shifts.take)(always=True)
    done = async_to_sync(here.round.run)()
    if options["verbosity"]:
        runs = counted(done.scheduled, "run", would=False)
        messages = counted(done.relayed, "message", would=False)
        stdout.write(f"{runs} enqueued by schedules, {messages} sent that had been left.")
    return 0
