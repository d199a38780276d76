"""What the verbs that change records share: the question, the progress and the summary."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.management.output import DONE, EMPTY, USAGE, counted, describe, write_json
from lambda_tasks.management.parsing import add_exit_code, add_json
from lambda_tasks.management.screen import Screen
from lambda_tasks.operations import Changes
from lambda_tasks.operations.steering import OnProgress
from lambda_tasks.records import queries

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it."""

SHOWN: Final = 10
"""The most records that a question or a summary names."""

BAR_WIDTH: Final = 30


class Change(Protocol):
    """A change of records, which a dry run only looks for."""

    def __call__(self, *, dry_run: bool, on_progress: OnProgress) -> Changes:
        """Do it, or look for what would be done."""
        ...


def add_options(parser: ArgumentParser) -> None:
    """Add the options of every verb that changes records."""
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser.add_argument("--yes", action="store_true", help="don't ask")
    add_json(parser)
    add_exit_code(parser, "empty", EMPTY, "there is nothing to do")


def first_of(ids: Sequence[UUID], total: int | None = None) -> list[str]:
    """Return a line for each of the first records, and how many more there are."""
    found = {each.id: each for each in queries.find_many(ids[:SHOWN])}
    shown = [describe(found[id]) for id in ids[:SHOWN] if id in found]
    return listed(shown, len(ids) if total is None else total)


def listed(lines: Sequence[str], total: int | None = None) -> list[str]:
    """Return the first lines, indented, and how many more there are."""
    n_more = (len(lines) if total is None else total) - SHOWN
    more = [f"  and {n_more:,} more"] if n_more > 0 else []
    return [f"  {line}" for line in lines[:SHOWN]] + more


class Subject(NamedTuple):
    """What a verb changes: its noun, and the lines that show the first of them."""

    noun: str
    first: Callable[[Sequence[UUID]], list[str]]


CALLS: Final = Subject("call", first_of)


def make(
    stdout: OutputWrapper,
    options: dict[str, Any],
    verb: str,
    participle: str,
    change: Change,
    *,
    warning: str = "",
    subject: Subject = CALLS,
) -> int:
    """Make a change, once it is confirmed; say what was done; return the exit code.

    A person at a terminal is asked, with the number, the first records and what else there is to
    know. Elsewhere `--yes` is needed.
    """
    if not (options["yes"] or options["dry_run"]):
        planned = change(dry_run=True, on_progress=_ignore)
        question = f"{verb} {counted(len(planned.done), subject.noun)}?{warning and f' {warning}'}"
        if planned.done and not confirm(stdout, question, subject.first(planned.done)):
            return int(options["empty_exit_code"])
    progress = Progress(stdout, options, participle)
    with progress:
        changes = change(dry_run=options["dry_run"], on_progress=progress.show)
    _summarize(stdout, options, participle, changes, subject)
    return DONE if changes.done else int(options["empty_exit_code"])


def confirm(stdout: OutputWrapper, question: str, lines: Iterable[str]) -> bool:
    """Return whether the person at the terminal agrees. Raises CommandError where nobody is."""
    if not sys.stdin.isatty():
        raise CommandError(
            "Nobody can be asked here. Add --yes, or look first with --dry-run.", returncode=USAGE
        )
    for line in lines:
        stdout.write(line)
    stdout.write(f"{question} [y/N] ", ending="")
    stdout.flush()
    agreed = sys.stdin.readline().strip().lower() in ("y", "yes")
    if not agreed:
        stdout.write("Nothing was changed.")
    return agreed


class Progress:
    """A bar at a terminal; and after Ctrl-C, a word on how far it has come."""

    def __init__(self, stdout: OutputWrapper, options: dict[str, Any], participle: str) -> None:
        self._screen = Screen(stdout) if stdout.isatty() and not options["json"] else None
        self._participle = participle
        self._done = self._total = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._screen is not None and self._total:
            self._screen.clear()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            raise CommandError(
                f"Interrupted: {self._done:,} of {self._total:,} were {self._participle}. "
                "The same command does the rest.",
                returncode=INTERRUPTED,
            )

    def show(self, done: int, total: int) -> None:
        """Show how much is done."""
        self._done, self._total = done, total
        if self._screen is not None:
            filled = BAR_WIDTH * done // max(total, 1)
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self._screen.show(f"[{bar}] {done:,} of {total:,} {self._participle}")


def _summarize(
    stdout: OutputWrapper,
    options: dict[str, Any],
    participle: str,
    changes: Changes,
    subject: Subject,
) -> None:
    dry_run = options["dry_run"]
    if options["json"]:
        for id, reason in changes.skipped.items():
            write_json(stdout, "skipped", {"id": str(id), "reason": reason})
        new = getattr(changes, "new", {})
        for id in changes.done:
            line = {"id": str(id), "dry_run": dry_run}
            write_json(stdout, "changed", line | ({"new_id": str(new[id])} if id in new else {}))
        numbers = {"done": len(changes.done), "skipped": len(changes.skipped)}
        write_json(stdout, "summary", {"what": participle, "dry_run": dry_run, **numbers})
        return
    if options["verbosity"] == 0:
        return
    for id, reason in list(changes.skipped.items())[:SHOWN]:
        stdout.write(f"{id} is left out: {reason}.")
    if (n_more := len(changes.skipped) - SHOWN) > 0:
        stdout.write(f"{n_more:,} more left out; --json names them all.")
    for text in subject.first(changes.done) if dry_run else ():
        stdout.write(text)
    stdout.write(f"{counted(len(changes.done), subject.noun, would=dry_run)} {participle}.")


def _ignore(done: int, total: int) -> None:
    """Show nothing while the question is prepared."""
