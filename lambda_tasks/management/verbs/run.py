"""Due tasks run here, by the real executor, until there is nothing to do; or one call, by its id.

Exit codes: 0, 1 if a task failed (--failed-exit-code), 2 for arguments that make no sense, 3 if
there was nothing to do, or the call could not begin (--empty-exit-code). A failure outranks.
"""

import asyncio
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks import operations, runtime
from lambda_tasks.core.lifecycle import Status
from lambda_tasks.errors import NothingToRun
from lambda_tasks.management.changing import SHOWN, listed
from lambda_tasks.management.output import DONE, EMPTY, FAILED, USAGE, counted, describe, write_json
from lambda_tasks.management.parsing import add_exit_code, add_json, duration
from lambda_tasks.operations.describing import record_as_json
from lambda_tasks.operations.running import find_runnable, queue_names, run_task, work
from lambda_tasks.records.counts import find_waiting

HELP: Final = "Runs due tasks here, or one call by its id."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("id", nargs="?", metavar="ID", help="the id of one call")
    parser.add_argument(
        "--retry", action="store_true", help="with ID: also a call that has failed or was cancelled"
    )
    parser.add_argument(
        "--queue", action="append", metavar="NAME", help="a queue (default: all that workers have)"
    )
    parser.add_argument("--max-tasks", type=int, metavar="N", help="stop after N tasks have begun")
    parser.add_argument(
        "--within", type=duration, metavar="TIME", help="begin nothing more after 90s, 15m or 1h"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would run first")
    add_json(parser)
    add_exit_code(parser, "failed", FAILED, "a task failed")
    add_exit_code(parser, "empty", EMPTY, "there is nothing to do")


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Run tasks, print what came of them, and return the exit code. Raises InvalidFilter."""
    if options["id"] is None:
        if options["retry"]:
            raise CommandError("--retry needs the ID of a call.", returncode=USAGE)
        return _run_many(stdout, options)
    if options["queue"] or options["max_tasks"] is not None or options["within"]:
        text = "--queue, --max-tasks and --within can't go with an ID."
        raise CommandError(text, returncode=USAGE)
    return _run_one(stdout, options)


def _run_one(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    id, retry, dry_run = options["id"], options["retry"], options["dry_run"]
    try:
        record = find_runnable(id, retry=retry) if dry_run else run_task(id, retry=retry)
    except NothingToRun as error:
        if not options["json"]:
            stdout.write(str(error))
        return int(options["empty_exit_code"])
    if options["json"]:
        write_json(stdout, "record", record_as_json(record))
    elif options["verbosity"]:
        stdout.write(describe(record))
    if record.status == Status.FAILED and not dry_run:
        return int(options["failed_exit_code"])
    # Another worker runs it, or it waits for a lock or a place.
    is_left = not (dry_run or Status(record.status).is_finished)
    return int(options["empty_exit_code"]) if is_left else DONE


def _run_many(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    if options["dry_run"]:
        return _preview(stdout, options)
    # What this process has sent before went out on another event loop.
    runtime.close()
    running = work(
        max_tasks=options["max_tasks"],
        queue=options["queue"],
        within=options["within"],
        stops_on_signals=True,
    )
    ran = asyncio.run(running)
    if options["json"]:
        write_json(stdout, "summary", {"what": "run", "dry_run": False, **asdict(ran)})
    elif options["verbosity"]:
        ended = counted(ran.done, "call")
        text = f"{ended} done, of which {ran.failed:,} failed; {ran.returned:,} interrupted"
        stdout.write(f"{text}, to run later." if ran.returned else f"{text}.")
    if ran.failed:
        return int(options["failed_exit_code"])
    return DONE if ran.done else int(options["empty_exit_code"])


def _preview(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    counts, queues = operations.stats().queues, queue_names(options["queue"])
    waiting = sum(counts[name].waiting for name in queues)
    first = find_waiting(queues=queues, limit=SHOWN)
    if options["json"]:
        for record in first:
            write_json(stdout, "record", record_as_json(record))
        write_json(stdout, "summary", {"what": "run", "dry_run": True, "waiting": waiting})
    elif options["verbosity"]:
        for line in listed([*map(describe, first)], waiting):
            stdout.write(line)
        stdout.write(f"{counted(waiting, 'call')} due.")
    return DONE if waiting else int(options["empty_exit_code"])
