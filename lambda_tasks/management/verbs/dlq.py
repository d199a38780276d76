"""The dead letters of SQS queues: count them, look at them, send them back, or delete them.

Queues are named as in LAMBDA_TASKS_QUEUES. Exit codes: 0 if it was done, 2 for an unknown queue or
arguments that make no sense, 3 if there are none (--empty-exit-code), 1 if AWS refuses.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import console, operations
from lambda_tasks.management import changing
from lambda_tasks.management.output import DONE, EMPTY, counted, shown_time, write_json
from lambda_tasks.management.parsing import add_exit_code, add_json, current_user, duration
from lambda_tasks.operations import DeadLetter, Redriven

HELP: Final = "Shows dead letters, sends them back, or deletes them."

PEEKED: Final = 100

CAME_AGAIN: Final = "it had gone back, and came again"

DROP: Final = "Delete for good, as their records have ended,"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the actions of `dlq`."""
    actions = parser.add_subparsers(dest="action", required=True)
    shown = actions.add_parser("list", help="count the dead letters of each queue")
    peek = actions.add_parser("peek", help="show some, by task and error; they stay")
    for action in (shown, peek):
        action.add_argument("queue", nargs="?", metavar="QUEUE", help="one queue (default: all)")
        add_json(action)
        add_exit_code(action, "empty", EMPTY, "there are no dead letters")
    peek.add_argument(
        "--limit", type=int, default=PEEKED, metavar="N",
        help=f"how many of each queue (default: {PEEKED})",
    )  # fmt: skip
    redrive = actions.add_parser("redrive", help="send dead letters back to their queue")
    redrive.add_argument("--limit", type=int, metavar="N", help="at most so many")
    redrive.add_argument(
        "--per-second", type=float, default=10, metavar="N", help="how fast (default: 10)"
    )
    redrive.add_argument(
        "--drop-ended", action="store_true",
        help="delete those whose records have ended, instead of leaving them",
    )  # fmt: skip
    purge = actions.add_parser("purge", help="delete dead letters for good")
    window = purge.add_mutually_exclusive_group(required=True)
    window.add_argument(
        "--older-than", type=duration, metavar="TIME", help="what was sent so long ago, such as 7d"
    )
    window.add_argument("--all-time", action="store_true", help="whatever there is")
    for takes_ids in (redrive, window):
        takes_ids.add_argument(
            "--id", action="append", metavar="ID", dest="ids",
            help="a message, by its id in SQS, as `peek --json` shows it; may be repeated",
        )  # fmt: skip
    purge.add_argument("--by", metavar="NAME", help="who does it, for the log (default: you)")
    for action in (redrive, purge):
        action.add_argument("queue", metavar="QUEUE", help="the queue that they came from")
        action.add_argument("--task", metavar="NAME", help="those of one task")
        changing.add_options(action)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Do the chosen action, and return the exit code. Raises InvalidFilter, QueueUnavailable."""
    return _ACTIONS[options["action"]](stdout, options)


def _list(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    found = operations.count_dead_letters(options["queue"])
    for each in found:
        if options["json"]:
            write_json(stdout, "dead_letters", asdict(each))
        elif each.name is None:
            stdout.write(f"{each.queue}: no dead-letter queue; `queues ensure` makes one")
        else:
            hidden = f", {each.in_flight:,} in flight" if each.in_flight else ""
            stdout.write(f"{each.queue}: {each.visible:,} in {each.name}{hidden}")
    has_any = any(each.visible or each.in_flight for each in found)
    return DONE if has_any else int(options["empty_exit_code"])


def _peek(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    letters = operations.peek_dead_letters(options["queue"], limit=options["limit"])
    if options["json"]:
        for each in letters:
            write_json(stdout, "dead_letter", _as_json(each))
    for group in operations.group_dead_letters(letters):
        if options["json"]:
            write_json(stdout, "dead_letter_group", asdict(group))
            continue
        stdout.write(f"{group.count:,} x {group.task_name or 'unreadable'}: {group.error or '-'}")
        members = [
            each
            for each in letters
            if (each.task_name, each.error) == (group.task_name, group.error)
        ]
        _write_first(stdout, members)
    return DONE if letters else int(options["empty_exit_code"])


def _redrive(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    redrive = partial(
        operations.redrive_dead_letters,
        options["queue"],
        task=options["task"],
        ids=options["ids"],
        limit=options["limit"],
        per_second=options["per_second"],
        drop_ended=options["drop_ended"],
    )
    dry_run = options["dry_run"]
    if not (options["yes"] or dry_run):
        planned = redrive(dry_run=True)
        asked = ("Send back", planned.sent), (DROP, planned.dropped)
        if not all(_confirm(stdout, verb, letters) for verb, letters in asked):
            return int(options["empty_exit_code"])
    with (progress := changing.Progress(stdout, options, "sent back")):
        redriven = redrive(dry_run=dry_run, on_progress=progress.show)
    _show_redriven(stdout, options, redriven)
    is_done = redriven.sent or redriven.dropped
    return DONE if is_done else int(options["empty_exit_code"])


def _show_redriven(stdout: OutputWrapper, options: dict[str, Any], redriven: Redriven) -> None:
    dry_run = options["dry_run"]
    if options["json"]:
        _write_letters(stdout, redriven.sent, dry_run=dry_run, what="sent back")
        _write_letters(stdout, redriven.dropped, dry_run=dry_run, what="dropped")
        for each in redriven.skipped:
            reason = each.must_not_go_back or CAME_AGAIN
            write_json(stdout, "skipped", {"id": each.message_id, "reason": reason})
        numbers = {"done": len(redriven.sent), "dropped": len(redriven.dropped)}
        _write_summary(stdout, "sent back", dry_run, numbers | {"skipped": len(redriven.skipped)})
    elif options["verbosity"]:
        for each in redriven.dropped[: changing.SHOWN]:
            stdout.write(f"{_line(each)} is dropped: {each.must_not_go_back}.")
        for each in redriven.skipped[: changing.SHOWN]:
            stdout.write(f"{_line(each)} stays: {each.must_not_go_back or CAME_AGAIN}.")
        stdout.write(
            f"{counted(len(redriven.sent), 'dead letter', would=dry_run)} sent back; "
            f"{len(redriven.dropped):,} dropped, {len(redriven.skipped):,} left."
        )


def _purge(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    purge = partial(
        operations.purge_dead_letters,
        options["queue"],
        older_than=options["older_than"],
        all_time=options["all_time"],
        task=options["task"],
        ids=options["ids"],
        by=options["by"] or current_user(),
    )
    dry_run = options["dry_run"]
    if not (options["yes"] or dry_run):
        planned = purge(dry_run=True)
        if not _confirm(stdout, "Delete for good", planned.deleted):
            return int(options["empty_exit_code"])
    with (progress := changing.Progress(stdout, options, "deleted")):
        purged = purge(dry_run=dry_run, on_progress=progress.show)
    if options["json"]:
        _write_letters(stdout, purged.deleted, dry_run=dry_run, what="deleted")
        numbers = {"done": len(purged.deleted), "kept": purged.kept}
        _write_summary(stdout, "deleted", dry_run, numbers)
    elif options["verbosity"]:
        deleted = counted(len(purged.deleted), "dead letter", would=dry_run)
        stdout.write(f"{deleted} deleted; {purged.kept:,} others stay.")
    return DONE if purged.deleted else int(options["empty_exit_code"])


def _confirm(stdout: OutputWrapper, verb: str, letters: Sequence[DeadLetter]) -> bool:
    if not letters:
        return True
    lost = sum(each.is_direct and each.status is None for each in letters)
    warning = f" {lost:,} of them have no record: nothing else knows of these calls." * bool(lost)
    question = f"{verb} {counted(len(letters), 'dead letter')}?{warning}"
    return changing.confirm(stdout, question, changing.listed([*map(_line, letters)]))


def _write_first(stdout: OutputWrapper, letters: Sequence[DeadLetter]) -> None:
    for line in changing.listed([*map(_whole_line, letters)]):
        stdout.write(line)


def _whole_line(each: DeadLetter) -> str:
    sent_at = shown_time(each.sent_at) if each.sent_at else "-" * 25
    received = counted(each.receives, "receive")
    source = f" from {each.came_from}" if each.came_from else ""
    return f"{sent_at}  {each.status or 'no record'}  {received}{source}  {_line(each)}"


def _line(each: DeadLetter) -> str:
    if each.task_name is None:
        return f"message {each.message_id}"
    call = console.call_as_text(each.task_name, each.args, each.kwargs)
    return f"{each.invocation_id} {call}"


def _as_json(each: DeadLetter) -> dict[str, Any]:
    values = asdict(each)
    values["invocation_id"] = each.invocation_id and str(each.invocation_id)
    values["sent_at"] = each.sent_at and each.sent_at.isoformat()
    return values


def _write_letters(
    stdout: OutputWrapper, letters: Sequence[DeadLetter], *, dry_run: bool, what: str
) -> None:
    for each in letters:
        write_json(stdout, "dead_letter", _as_json(each) | {"what": what, "dry_run": dry_run})


def _write_summary(
    stdout: OutputWrapper, what: str, dry_run: bool, numbers: dict[str, int]
) -> None:
    write_json(stdout, "summary", {"what": what, "dry_run": dry_run, **numbers})


_ACTIONS: Final = {"list": _list, "peek": _peek, "redrive": _redrive, "purge": _purge}
