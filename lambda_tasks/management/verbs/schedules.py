"""The schedules: list them, switch them on and off, run one now, or enqueue runs that were missed.

Exit codes: 0 if it was done, 2 for an unknown schedule or a span that makes no sense, 1 for a
mistake in the settings or without `migrate`.
"""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper
from django.utils.timezone import get_current_timezone, localtime

from lambda_tasks import scheduling
from lambda_tasks.declared_schedules import find_declared
from lambda_tasks.errors import UnknownSchedule
from lambda_tasks.management.output import USAGE
from lambda_tasks.records import queries

HELP: Final = "Lists schedules, switches them, runs them now, or for times that are past."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the actions of `schedules`."""
    actions = parser.add_subparsers(dest="action")
    shown = actions.add_parser("list", help="show all schedules (the default)")
    shown.add_argument("--json", action="store_true", help="one JSON object a line")
    for action, text in (("enable", "switch some on"), ("disable", "switch some off")):
        switch = actions.add_parser(action, help=text)
        switch.add_argument("names", metavar="NAME", nargs="+")
        switch.add_argument("--by", default="the command line", help="who does it")
        switch.add_argument("--reason", default="", help="why")
    now = actions.add_parser("run", help="enqueue a run of each now")
    now.add_argument("names", metavar="NAME", nargs="+")
    past = actions.add_parser("backfill", help="enqueue the runs of a time span, once")
    past.add_argument("name", metavar="NAME")
    past.add_argument("start", metavar="START", type=_moment, help="such as 2026-05-01T00:00")
    past.add_argument("end", metavar="END", type=_moment)
    past.add_argument("--dry-run", action="store_true", help="only show the due times")


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Do the chosen action, and return 0. With an unknown name among several, nothing is done.

    Raises CommandError for an unknown schedule, and NotMigrated without `migrate`.
    """
    queries.check_migrated()
    action = options["action"] or "list"
    try:
        for name in options.get("names", ()):
            find_declared(name)
        ACTIONS[action](stdout, options)
    except (UnknownSchedule, ValueError) as error:
        raise CommandError(str(error), returncode=USAGE) from None
    return 0


def _list(stdout: OutputWrapper, options: dict[str, Any]) -> None:
    for each in scheduling.list_schedules():
        if options.get("json"):
            stdout.write(json.dumps(asdict(each), default=datetime.isoformat))
            continue
        stdout.write(f"{each.name}: {each.rule}, {each.task_name}, {_state(each)}")


def _state(each: scheduling.ScheduleStatus) -> str:
    if not each.is_declared:
        return "gone from the code"
    if not each.is_enabled:
        return f"off, by {each.changed_by}" + (f" ({each.reason})" if each.reason else "")
    coming = ", ".join(localtime(due).strftime("%Y-%m-%d %H:%M:%S") for due in each.next_due)
    last = f", last {each.last_status}" if each.last_status else ""
    skipped = f", {each.n_skipped} skipped" if each.n_skipped else ""
    return f"next {coming or 'never'}{last}{skipped}"


def _switch(stdout: OutputWrapper, options: dict[str, Any]) -> None:
    is_on = options["action"] == "enable"
    switch = scheduling.enable_schedule if is_on else scheduling.disable_schedule
    state = "on" if is_on else "off"
    for name in options["names"]:
        changed = switch(name, by=options["by"], reason=options["reason"])
        stdout.write(f"{name} is {state}{'' if changed else ' already'}.")


def _run_now(stdout: OutputWrapper, options: dict[str, Any]) -> None:
    for name in options["names"]:
        stdout.write(f"Enqueued as {scheduling.run_schedule(name).id}.")


def _backfill(stdout: OutputWrapper, options: dict[str, Any]) -> None:
    dry_run = options["dry_run"]
    found = scheduling.backfill_schedule(
        options["name"], options["start"], options["end"], dry_run=dry_run
    )
    for due in found:
        stdout.write(localtime(due).isoformat())
    stdout.write(f"{len(found)} runs {'would be ' if dry_run else ''}enqueued.")


ACTIONS: Final = {
    "list": _list, "enable": _switch, "disable": _switch, "run": _run_now, "backfill": _backfill,
}  # fmt: skip


def _moment(text: str) -> datetime:
    """Return a moment in ISO format; without a time zone, in that of the project."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=get_current_timezone())
