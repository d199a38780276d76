"""Starts Django's development server, an SQS on loopback and the real Lambda handler, which is fed
from it with visibility timeouts, partial batch failures and dead letters; starts what runs tasks
again when the code changes; and prints each task that comes to its end. Nothing goes to AWS,
whatever the settings say. Ctrl-C ends it. Exit codes: 0, or 1 for a mistake."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.local.chaos import Chaos
from lambda_tasks.local.dev import Dev, ServerEnded, stopped_by_signals

HELP: Final = "Runs the project with its tasks on a laptop."

TIMEOUT_S: Final = 60.0
CHAOTIC_TIMEOUT_S: Final = 10.0
"""What a function that died has held comes back when its timeout is over, and its lease."""


def add_arguments(parser: ArgumentParser) -> None:
    """See HELP."""
    parser.add_argument(
        "address", nargs="?", default="127.0.0.1:8000", help="of the server (127.0.0.1:8000)"
    )
    parser.add_argument(
        "--chaos", type=_chaos, default="", metavar="KIND=PERCENT,...",
        help="crash=5%%,duplicate=5%%: functions that die, messages that come twice",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="the function's (60; 10 with --chaos)"
    )


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Raises CommandError where DEBUG is off or another setting wrong, for chaos without a local
    SQS, and where the server ends."""
    timeout_s = options["timeout"] or (CHAOTIC_TIMEOUT_S if options["chaos"] else TIMEOUT_S)
    screen = _Screen(stdout)
    dev = Dev(screen.say, screen.show, options["address"], timeout_s, options["chaos"])
    try:
        with stopped_by_signals(dev):
            counts = dev.run()
    except (ImproperlyConfigured, ModuleNotFoundError, ServerEnded) as error:
        raise CommandError(str(error)) from None
    screen.say(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    return 0


class _Screen:
    """Lines, and on a terminal below them one that changes."""

    def __init__(self, stdout: OutputWrapper) -> None:
        self._stdout = stdout
        self._clear = "\r\x1b[K" if stdout.isatty() else ""
        self._shown = ""

    def say(self, text: str) -> None:
        self._stdout.write(self._clear + text)
        self._stdout.flush()
        self._shown = ""

    def show(self, text: str) -> None:
        if self._clear and text != self._shown:
            self._stdout.write(self._clear + text, ending="")
            self._stdout.flush()
            self._shown = text


def _chaos(text: str) -> str:
    try:
        Chaos.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
    return text
