"""Django's development server, an SQS on loopback and the real Lambda handler, on a laptop.

The handler gets messages as on AWS, with visibility timeouts, partial batch failures and dead
letters. When the code changes, the processes that run tasks are restarted. The end of each
run is printed. Nothing is sent to AWS, whatever the settings say. Ctrl-C ends all of it: what runs
has 5 seconds to end, a second Ctrl-C gives it back at once. With -v 0 only errors are printed. Exit
codes: 0, or 1 for a mistake in the settings or the options, or without `migrate`.
"""

from argparse import ArgumentParser, ArgumentTypeError
from contextlib import suppress
from typing import Any, Final

from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.local.chaos import Chaos
from lambda_tasks.local.dev import Dev, ServerEnded, stopped_by_signals
from lambda_tasks.management.screen import Screen

HELP: Final = "Runs the project with its tasks on a laptop."

CHAOTIC_TIMEOUT_S: Final = 10.0
"""The function's timeout with --chaos, in seconds.

It is shorter, as the messages of a killed function return only after its timeout.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `dev`."""
    parser.add_argument(
        "address", nargs="?", default="127.0.0.1:8000", metavar="HOST:PORT",
        help="the address of the development server (default: 127.0.0.1:8000)",
    )  # fmt: skip
    parser.add_argument(
        "--chaos", type=_chaos, default="", metavar="KIND=PERCENT,...",
        help="for example crash=5%%,duplicate=5%%: kill functions, and deliver messages twice",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS",
        help="the timeout of the function (default: 3 more than the longest hard timeout, "
        "or 10 with --chaos)",
    )  # fmt: skip


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Run the project until a signal stops it, print the number of records, and return 0.

    Raises ImproperlyConfigured for a mistake in the settings, DEBUG = False included; NotMigrated
    where a table is missing; and CommandError for chaos without MiniStack, and where the
    development server exits.
    """
    timeout_s = options["timeout"] or (CHAOTIC_TIMEOUT_S if options["chaos"] else None)
    screen = Screen(stdout)
    dev = Dev(
        say=screen.say,
        show=screen.show,
        address=options["address"],
        timeout_s=timeout_s,
        chaos=options["chaos"],
        verbosity=options["verbosity"],
    )
    try:
        with stopped_by_signals(dev):
            counts = dev.run()
    except (ModuleNotFoundError, ServerEnded) as error:
        raise CommandError(str(error)) from None
    if options["verbosity"]:
        ended = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        with suppress(OSError):
            screen.say(f"All has ended. Runs since the start: {ended or 'none'}.")
    return 0


def _chaos(text: str) -> str:
    try:
        Chaos.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text
