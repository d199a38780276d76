"""The schedules: list them, switch them on and off, run some now, or enqueue runs that were missed.

A backfill asks first; --yes skips the question. Exit codes: 0, 2 for an unknown schedule or a span
that makes no sense, 3 if there is nothing to do (--empty-exit-code).
"""

from argparse import ArgumentParser
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import scheduling
from lambda_tasks.declared_schedules import find_declared
from lambda_tasks.errors import UnknownSchedule
from lambda_tasks.management.changing import confirm, listed
from lambda_tasks.management.output import (
    DONE,
    EMPTY,
    USAGE,
    counted,
    shown_time,
    write_json,
)
from lambda_tasks.management.parsing import (
    add_exit_code,
    add_json,
    current_user,
    date,
    djangos_options,
)
from lambda_tasks.records import queries

HELP: Final = "Lists schedules, switches them, runs them now, or for times that are past."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the actions of `schedules`, of which `list` is the default."""
    _add_shared(parser, inherits=False)
    actions = parser.add_subparsers(dest="action")

    def add_action(name: str, text: str) -> ArgumentParser:
        action: ArgumentParser = actions.add_parser(name, help=text, parents=[djangos_options()])
        _add_shared(action, inherits=True)
        return action

    add_action("list", "show all schedules (the default)")
    for name, text in (("enable", "switch some on"), ("disable", "switch some off")):
        switch = add_action(name, text)
        _add_names(switch)
        switch.add_argument("--by", metavar="NAME", help="who does it (default: you)")
        switch.add_argument("--reason", default="", metavar="TEXT", help="why")
        switch.add_argument("--dry-run", action="store_true", help="only show what would be done")
    now = add_action("run", "enqueue a run of each now")
    _add_names(now)
    now.add_argument("--dry-run", action="store_true", help="only show what would run")
    past = add_action("backfill", "enqueue the runs of a time span, once")
    past.add_argument("name", metavar="NAME", help="a schedule")
    past.add_argument("start", metavar="START", type=date, help="such as 2026-05-01T00:00")
    past.add_argument("end", metavar="END", type=date, help="as START; it belongs to the span")
    past.add_argument("--dry-run", action="store_true", help="only show the due times")
    past.add_argument("--yes", action="store_true", help="don't ask")


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Do the chosen action, and return the exit code. With an unknown name, nothing is done.

    Raises CommandError for an unknown schedule, and NotMigrated without `migrate`.
    """
    queries.check_migrated()
    action = ACTIONS[options["action"] or "list"]
    try:
        for name in options.get("names", ()):
            find_declared(name)
        is_done = action(stdout, options)
    except (UnknownSchedule, ValueError) as error:
        raise CommandError(str(error), returncode=USAGE) from None
    return DONE if is_done else int(options["empty_exit_code"])


def _add_shared(parser: ArgumentParser, *, inherits: bool) -> None:
    add_json(parser, inherits=inherits)
    add_exit_code(parser, "empty", EMPTY, "there is nothing to do", inherits=inherits)


def _add_names(parser: ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="schedules")


def _list(stdout: OutputWrapper, options: dict[str, Any]) -> bool:
    found = scheduling.list_schedules()
    for each in found:
        if options["json"]:
            described = {**asdict(each), "next_due": [due.isoformat() for due in each.next_due]}
            write_json(stdout, "schedule", described)
        else:
            stdout.write(f"{each.name}: {each.rule}, {each.task_name}, {_state(each)}")
    return bool(found)


def _state(each: scheduling.ScheduleStatus) -> str:
    if not each.is_declared:
        return "gone from the code"
    if not each.is_enabled:
        return f"off, by {each.changed_by}" + (f" ({each.reason})" if each.reason else "")
    coming = ", ".join(map(shown_time, each.next_due))
    last = f", last {each.last_status}" if each.last_status else ""
    skipped = f", {each.n_skipped} skipped" if each.n_skipped else ""
    return f"next {coming or 'never'}{last}{skipped}"


def _switch(stdout: OutputWrapper, options: dict[str, Any]) -> bool:
    is_on, dry_run = options["action"] == "enable", options["dry_run"]
    switch = scheduling.enable_schedule if is_on else scheduling.disable_schedule
    are_on = {each.name: each.is_enabled for each in scheduling.list_schedules()}
    n_changed = 0
    for name in options["names"]:
        if dry_run:
            changed = are_on[name] != is_on
        else:
            changed = switch(name, by=options["by"] or current_user(), reason=options["reason"])
        n_changed += changed
        if options["json"]:
            about = {"is_enabled": is_on, "is_changed": changed, "dry_run": dry_run}
            write_json(stdout, "switched", {"name": name, **about})
        elif options["verbosity"]:
            verb = "would be" if dry_run and changed else "is"
            state = "on" if is_on else "off"
            stdout.write(f"{name} {verb} {state}{'' if changed else ' already'}.")
    return n_changed > 0


def _run_now(stdout: OutputWrapper, options: dict[str, Any]) -> bool:
    dry_run = options["dry_run"]
    for name in options["names"]:
        task_name = find_declared(name).task_name
        id = None if dry_run else str(scheduling.run_schedule(name).id)
        if options["json"]:
            about = {"id": id, "task_name": task_name, "dry_run": dry_run}
            write_json(stdout, "enqueued", {**about, "schedule": name})
        elif options["verbosity"]:
            would = f"{name}: {task_name} would be enqueued."
            stdout.write(would if dry_run else f"Enqueued as {id}.")
    return True


def _backfill(stdout: OutputWrapper, options: dict[str, Any]) -> bool:
    name, dry_run = options["name"], options["dry_run"]
    backfill = partial(scheduling.backfill_schedule, name, options["start"], options["end"])
    if not (options["yes"] or dry_run):
        planned = backfill(dry_run=True)
        question = f"Enqueue {counted(len(planned), 'run')} of {name}?"
        if planned and not confirm(stdout, question, listed([*map(shown_time, planned)])):
            return False
    found = backfill(dry_run=dry_run)
    if options["json"]:
        for due in found:
            about = {"schedule": name, "due": due.isoformat(), "dry_run": dry_run}
            write_json(stdout, "backfilled", about)
        summary = {"what": "backfilled", "dry_run": dry_run, "done": len(found), "skipped": 0}
        write_json(stdout, "summary", summary)
    elif options["verbosity"]:
        for due in found:
            stdout.write(shown_time(due))
        stdout.write(f"{counted(len(found), 'run', would=dry_run)} enqueued.")
    return bool(found)


ACTIONS: Final = {
    "list": _list, "enable": _switch, "disable": _switch, "run": _run_now, "backfill": _backfill,
}  # fmt: skip
