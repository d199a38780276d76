"""What the verbs that change records share: the question, the progress and the summary."""

import sys
from argparse import ArgumentParser
from typing import Any, Final, Protocol
from uuid import UUID

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.management.output import DONE, EMPTY, USAGE, counted, write_json
from lambda_tasks.management.parsing import add_exit_code, add_json
from lambda_tasks.management.screen import Screen
from lambda_tasks.operations import Changes
from lambda_tasks.operations.steering import OnProgress

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C, as shells have it."""

SHOWN: Final = 10
"""The most ids that a question or a summary names."""

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


def make(
    stdout: OutputWrapper,
    options: dict[str, Any],
    verb: str,
    participle: str,
    change: Change,
    *,
    noun: str = "call",
) -> int:
    """Make a change, once it is confirmed; say what was done; return the exit code.

    A person at a terminal is asked, with the number and the first ids. Elsewhere `--yes` is needed.
    """
    if not (options["yes"] or options["dry_run"]):
        planned = change(dry_run=True, on_progress=_ignore)
        if planned.done and not confirm(stdout, question(verb, planned.done, noun)):
            return DONE
    progress = Progress(stdout, options, participle)
    with progress:
        changes = change(dry_run=options["dry_run"], on_progress=progress.show)
    _summarize(stdout, options, participle, changes, noun)
    return DONE if changes.done else int(options["empty_exit_code"])


def question(verb: str, ids: list[UUID], noun: str = "call") -> str:
    """Return the question whether to change records, with their number and the first ids."""
    first = "".join(f"\n  {id}" for id in ids[:SHOWN])
    more = f"\n  and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return f"{verb} {counted(len(ids), noun)}?{first}{more}"


def confirm(stdout: OutputWrapper, text: str) -> bool:
    """Return whether the person at the terminal agrees. Raises CommandError where nobody is."""
    if not sys.stdin.isatty():
        raise CommandError(
            "Nobody can be asked here. Add --yes, or look first with --dry-run.", returncode=USAGE
        )
    stdout.write(f"{text} [y/N] ", ending="")
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
    stdout: OutputWrapper, options: dict[str, Any], participle: str, changes: Changes, noun: str
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
    stdout.write(f"{counted(len(changes.done), noun, would=dry_run)} {participle}.")


def _ignore(done: int, total: int) -> None:
    """Show nothing while the question is prepared."""
