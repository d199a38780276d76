"""The arguments that several verbs have: filters, times, exit codes, and Django's own options."""

import getpass
import re
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError
from datetime import datetime, timedelta
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandParser
from django.utils.timezone import get_current_timezone

from lambda_tasks.core.arguments import json_or_text
from lambda_tasks.operations import Filters

UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
"""The seconds of each unit of a time."""

DURATION: Final = re.compile(r"(\d+)([smhd])")

FILTERS: Final = ("ids", "status", "task", "queue", "arguments", "since", "until", "error")


def add_filters(parser: ArgumentParser, *, ids: bool = True) -> None:
    """Add the filters by which a verb finds records."""
    if ids:
        parser.add_argument("ids", nargs="*", metavar="ID", help="the ids of invocations")
    parser.add_argument("--status", action="append", metavar="STATUS", help="such as FAILED")
    parser.add_argument("--task", action="append", metavar="NAME", help="a task's dotted name")
    parser.add_argument("--queue", action="append", metavar="NAME", help="a queue")
    parser.add_argument(
        "--argument", action="append", type=pair, metavar="NAME=VALUE", dest="arguments",
        help="an argument of the call; 0=VALUE for the first positional one",
    )  # fmt: skip
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="called since: 15m, 2h, 1d, or a date"
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="called before: as --since")
    parser.add_argument(
        "--error", metavar="TEXT", help="a part of the exception's class or traceback"
    )


def filters_of(options: dict[str, Any]) -> Filters:
    """Return the filters that were given."""
    given = {name: options.get(name) or None for name in FILTERS}
    if given["arguments"]:
        given["arguments"] = {name: json_or_text(text) for name, text in given["arguments"]}
    filters: Filters = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
    return filters


def add_json(parser: ArgumentParser, *, inherits: bool = False) -> None:
    """Add the option `--json`. With `inherits`, it may also stand before the action of a verb."""
    parser.add_argument(
        "--json", action="store_true", default=SUPPRESS if inherits else False,
        help="print one JSON object a line",
    )  # fmt: skip


def add_exit_code(
    parser: ArgumentParser, name: str, default: int, when: str, *, inherits: bool = False
) -> None:
    """Add an option that sets an exit code. See add_json()."""
    parser.add_argument(
        f"--{name}-exit-code", type=_exit_code, metavar="CODE",
        default=SUPPRESS if inherits else default,
        help=f"the exit code if {when}, from 0 to 255 (default: {default})",
    )  # fmt: skip


def pair(text: str) -> tuple[str, str]:
    """Return the name and the value of NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def duration(text: str) -> timedelta:
    """Return a time with its unit, such as 90s, 15m, 2h or 1d."""
    found = DURATION.fullmatch(text)
    if found is None or len(found[1]) > 9:
        raise ArgumentTypeError(f"{text!r} is not a time with its unit, such as 90s, 15m, 2h or 1d")
    return timedelta(seconds=int(found[1]) * UNITS_S[found[2]])


def moment(text: str) -> datetime | timedelta:
    """Return a time back from now, or a moment in ISO format, by default in the project's zone."""
    if DURATION.fullmatch(text):
        return duration(text)
    try:
        return _date(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is neither a time with its unit, such as 2h, nor one like 2026-05-01T08:00"
        ) from None


def date(text: str) -> datetime:
    """Return a moment in ISO format, by default in the project's time zone."""
    try:
        return _date(text)
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is not a date with a time, such as 2026-05-01T08:00 or "
            "2026-05-01T08:00+02:00"
        ) from None


def current_user() -> str:
    """Return who calls the command, for the log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "the command line"


def djangos_options() -> ArgumentParser:
    """Return the options that Django gives to every command, for the parser of a verb."""
    return _DjangosOptions().create_parser("manage.py", "lambda_tasks")


class _DjangosOptions(BaseCommand):
    """Django's options, without the defaults that would replace what was given before the verb."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """See BaseCommand."""
        return super().create_parser(
            prog_name, subcommand, add_help=False, argument_default=SUPPRESS, **kwargs
        )

    def add_base_argument(self, parser: CommandParser, *args: Any, **kwargs: Any) -> None:
        """See BaseCommand."""
        super().add_base_argument(parser, *args, **{**kwargs, "default": SUPPRESS})


def _date(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=get_current_timezone())


def _exit_code(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 255:
        raise ArgumentTypeError(f"{text!r} is not a number from 0 to 255")
    return int(text)
