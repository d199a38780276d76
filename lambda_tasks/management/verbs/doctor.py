"""What is wrong with the deployment, why it matters, and how to put it right.

Looks at settings, database, queues, event source mappings, functions, logs and ticks. Exit codes: 0
if no error was found, 2 for arguments that make no sense, 4 for an error, or a check of an error
that could not be made; with --strict also for warnings.
"""

from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management.changing import confirm
from lambda_tasks.management.output import DONE, UNHEALTHY, counted, write_json
from lambda_tasks.management.parsing import add_json, duration
from lambda_tasks.operations import Finding

HELP: Final = "Finds what is wrong with the deployment, and says how to put it right."


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `doctor`."""
    parser.add_argument(
        "--inside", action="store_true", help="invoke each function, which examines itself, too"
    )
    parser.add_argument(
        "--round-trip", action="store_true", help="call a task through each queue, which must run"
    )
    parser.add_argument(
        "--dead-letters", action="store_true", help="look at some, which are hidden for seconds"
    )
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="ID",
        help="leave out a check, or all of a subject, such as queue",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit with 4 for warnings, too")
    parser.add_argument(
        "--within", type=duration, default=timedelta(minutes=1), metavar="TIME",
        help="how long to read (default: 1m); what was not read is not checked",
    )  # fmt: skip
    parser.add_argument(
        "--fix", action="store_true", help="change values in AWS that are safe to change"
    )
    parser.add_argument("--dry-run", action="store_true", help="with --fix: only show the changes")
    parser.add_argument("--yes", action="store_true", help="with --fix: don't ask")
    add_json(parser)


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Print what is wrong, and return the exit code. Raises InvalidFilter for an unknown check."""
    asked = {
        name: options[name] for name in ("inside", "round_trip", "dead_letters", "ignore", "within")
    }
    findings = operations.doctor(**asked)
    if options["fix"] and _fix(stdout, options, findings):
        findings = operations.doctor(**asked)
    counts = {
        severity: sum(each.severity == severity and each.is_checked for each in findings)
        for severity in ("error", "warning", "info")
    }
    unchecked = sum(not each.is_checked for each in findings)
    grave = ("error", "warning") if options["strict"] else ("error",)
    code = UNHEALTHY if any(each.severity in grave for each in findings) else DONE
    if options["json"]:
        for each in findings:
            write_json(stdout, "finding", each.as_json())
        status = "ok" if code == DONE else "unhealthy"
        write_json(stdout, "doctor", {"status": status, **counts, "unchecked": unchecked})
    elif options["verbosity"]:
        _print(stdout, findings)
        numbers = ", ".join(f"{number} {severity}" for severity, number in counts.items())
        stdout.write(f"Found: {numbers}. Not checked: {unchecked}.")
    return code


def _fix(stdout: OutputWrapper, options: dict[str, Any], findings: Sequence[Finding]) -> bool:
    """Make the changes that are safe, once they are confirmed; return whether any was made."""
    planned = operations.fix(findings, dry_run=True).done
    is_shown = options["verbosity"] and not options["json"]
    if options["dry_run"] or not planned:
        _print_changes(stdout, options, planned, {}, dry_run=options["dry_run"])
        return False
    question = f"Make {counted(len(planned), 'change')}?"
    lines = [f"  {each}" for each in planned]
    if not options["yes"] and not confirm(stdout, question, lines):
        return False
    fixes = operations.fix(findings)
    _print_changes(stdout, options, fixes.done, fixes.failed, dry_run=False)
    if is_shown:
        stdout.write("")
    return True


def _print_changes(
    stdout: OutputWrapper,
    options: dict[str, Any],
    done: Iterable[str],
    failed: dict[str, str],
    *,
    dry_run: bool,
) -> None:
    for command in done:
        if options["json"]:
            write_json(stdout, "fixed", {"command": command, "dry_run": dry_run, "error": None})
        elif options["verbosity"]:
            stdout.write(f"{'Would do' if dry_run else 'Done'}: {command}")
    for command, reason in failed.items():
        if options["json"]:
            write_json(stdout, "fixed", {"command": command, "dry_run": False, "error": reason})
        elif options["verbosity"]:
            stdout.write(f"Failed: {command}\n  {reason}")


def _print(stdout: OutputWrapper, findings: Sequence[Finding]) -> None:
    for each in findings:
        if each.is_checked:
            stdout.write(f"{each.severity}: {each.where}: {each.found} [{each.id}]")
            stdout.write(f"  should be: {each.expected}\n  why: {each.why}\n  fix: {each.fix}")
            if each.template:
                stdout.write(f"  template: {each.template}")
    # One missing permission leaves many checks out: each reason is shown once.
    reasons: dict[str, list[str]] = {}
    for each in findings:
        if not each.is_checked:
            reasons.setdefault(f"{each.where}: {each.found}", []).append(each.id)
    for reason, ids in reasons.items():
        stdout.write(f"{reason} [{', '.join(ids)}]")
