"""Django's development server, an SQS on loopback and the real Lambda handler, on a laptop.

The handler gets messages as on AWS, with visibility timeouts, partial batch failures and dead
letters. When the code changes, the processes that run tasks are restarted. Each finished task is
printed. Nothing is sent to AWS, whatever the settings say. Ctrl-C ends it. Exit codes: 0, or 1 for
a mistake in the settings or the options.
"""

from argparse import ArgumentParser, ArgumentTypeError
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, OutputWrapper

from lambda_tasks.local.chaos import Chaos
from lambda_tasks.local.dev import Dev, ServerEnded, stopped_by_signals

HELP: Final = "Runs the project with its tasks on a laptop."

TIMEOUT_S: Final = 60.0
"""The function's timeout, in seconds."""

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
        help="the timeout of the function (default: 60, or 10 with --chaos)",
    )  # fmt: skip


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Run the project until a signal stops it, print the number of records, and return 0.

    Raises CommandError for a mistake in the settings, DEBUG = False included; for chaos without
    MiniStack; and where the development server exits.
    """
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
    """The output: lines and, on a terminal, one changing line below them."""

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
