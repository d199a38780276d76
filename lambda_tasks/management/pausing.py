"""What `pause` and `resume` share: their options, the question, and what they say."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.core.management.base import OutputWrapper

from lambda_tasks import operations
from lambda_tasks.management import changing
from lambda_tasks.management.output import DONE, counted, shown_time, write_json
from lambda_tasks.management.parsing import current_user
from lambda_tasks.models import QueueState
from lambda_tasks.operations.checking import known_queue
from lambda_tasks.records import queries


class Switch(NamedTuple):
    """One of the two ways to switch a queue."""

    verb: str
    participle: str
    switch: Callable[..., bool]
    is_paused: bool
    """How the queue is afterwards."""


PAUSE: Final = Switch("Pause", "paused", operations.pause_queue, is_paused=True)

RESUME: Final = Switch("Resume", "resumed", operations.resume_queue, is_paused=False)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of both verbs."""
    parser.add_argument("queues", nargs="+", metavar="QUEUE", help="a queue of LAMBDA_TASKS_QUEUES")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, for those who wonder")
    parser.add_argument("--by", metavar="NAME", help="who does it (default: you)")
    changing.add_options(parser)


def run(stdout: OutputWrapper, options: dict[str, Any], switch: Switch) -> int:
    """Switch queues, once it is confirmed, and return the exit code.

    With an unknown queue, none is switched. Raises InvalidFilter for it, and NotMigrated without
    `migrate`.
    """
    queries.check_migrated()
    names = list(dict.fromkeys(map(known_queue, options["queues"])))
    states, dry_run = operations.queue_states(), options["dry_run"]
    planned = [name for name in names if is_paused(states.get(name)) is not switch.is_paused]
    question = f"{switch.verb} {counted(len(planned), 'queue')}?"
    must_ask = planned and not (options["yes"] or dry_run)
    if must_ask and not changing.confirm(stdout, question, changing.listed(planned)):
        return int(options["empty_exit_code"])
    done = planned if dry_run else _switched(planned, options, switch)
    for name in names:
        _tell(stdout, options, switch, name, is_changed=name in done)
    if options["json"]:
        numbers = {"done": len(done), "skipped": len(names) - len(done)}
        about = {"what": switch.participle, "dry_run": dry_run}
        write_json(stdout, "summary", about | numbers)
    return DONE if done else int(options["empty_exit_code"])


def is_paused(state: QueueState | None) -> bool:
    """Return whether the row of a queue, if it has one, says that it is paused."""
    return state is not None and state.is_paused


def described(by: str, reason: str, *, since: datetime | None = None) -> str:
    """Return who has paused a queue, when and why."""
    at = f" since {shown_time(since)}" if since else ""
    why = f": {reason}" if reason else ""
    return f"paused by {by or 'nobody'}{at}{why}"


def _switched(names: Sequence[str], options: dict[str, Any], switch: Switch) -> list[str]:
    """Switch queues; return those that somebody else has not switched meanwhile."""
    by = options["by"] or current_user()
    return [name for name in names if switch.switch(name, by=by, reason=options["reason"])]


def _tell(
    stdout: OutputWrapper, options: dict[str, Any], switch: Switch, name: str, *, is_changed: bool
) -> None:
    dry_run = options["dry_run"]
    if options["json"]:
        about = {"is_paused": switch.is_paused, "is_changed": is_changed, "dry_run": dry_run}
        write_json(stdout, "queue_switched", {"queue": name, **about})
    elif options["verbosity"]:
        if not is_changed:
            state = "paused already" if switch.is_paused else "not paused"
            stdout.write(f"{name} is {state}.")
        else:
            stdout.write(f"{name} {'would be' if dry_run else 'was'} {switch.participle}.")
