"""The lines that `dev`, `worker` and `invoke` print about runs and tasks, for people."""

import logging
import os
import re
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Final

from django.conf import settings

from . import registry
from .core.lifecycle import Status
from .queues.base import Queue
from .queues.batch import BatchQueue
from .queues.sqs import SQSQueue

if TYPE_CHECKING:
    from .records.tables import TaskRecord

LINES_VARIABLE: Final = "LAMBDA_TASKS_CONSOLE"
"""The environment variable of a process of which another one prints the ends of runs.

Its value is the verbosity.
"""

FRAME: Final = re.compile(r'^ *(?:\| )*File "(?P<file>[^"]+)", line (?P<line>[0-9]+)', re.MULTILINE)

INSTALLED: Final = re.compile(r"[\\/](site|dist)-packages[\\/]|[\\/]lib[\\/]python3\.[0-9]+[\\/]")
"""The paths of code that is not the project's own."""

ENDS: Final = {
    Status.SUCCESS: ("succeeded", ", despite an error that the task ignores"),
    Status.FAILED: ("failed", ""),
    Status.RETRYING: ("failed", " and is retried"),
    Status.CANCELLED: ("was cancelled", ""),
}
"""What to say of each status that ends a run, and after the place of its error."""

MAX_NAMES: Final = 10
"""The most tasks that are named; of more, only the number is told."""

PACKAGE: Final = Path(__file__).parent

LOGGER: Final = logging.getLogger("lambda_tasks")

TASK_LOGGER: Final = logging.getLogger("lambda_tasks.task")

_arguments = reprlib.Repr()
_arguments.maxstring = _arguments.maxother = 60


def describe_end(record: "TaskRecord", *, with_traceback: bool = True) -> str:
    """Return the text about a run that has ended: its id, call, end and duration.

    For a failure it has the place in the project's code and, in further lines, the traceback.
    """
    verb, consequence = ENDS[Status(record.status)]
    text = f"[{record.id}] {describe_call(record)} {verb}"
    if record.duration is not None:
        text += f" after {record.duration.total_seconds():.3f} s"
    trace = (record.traceback or "").strip()
    if trace:
        text += f"{_place(trace)}{consequence}: {_error(trace)}"
    if trace and with_traceback and record.status == Status.FAILED:
        text += "\n" + indent(trace, "    ")
    return text


def describe_call(record: "TaskRecord") -> str:
    """Return a call as Python writes it. Secret arguments are redacted, long ones shortened."""
    return call_as_text(record.task_name, record.args or (), record.kwargs)


def call_as_text(task_name: str, args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    """Return a call as Python writes it, with long arguments shortened."""
    arguments = [_arguments.repr(each) for each in args]
    arguments += [f"{name}={_arguments.repr(each)}" for name, each in kwargs.items()]
    return f"{task_name}({', '.join(arguments)})"


def describe_queues(queues: Iterable[Queue]) -> str:
    """Return the names of queues with their kinds."""
    return ", ".join(f"{queue.name} ({_kind(queue)})" for queue in queues) or "none"


def describe_tasks() -> str:
    """Return the number and the names of the project's tasks. All task modules are imported."""
    registry.discover()
    library = f"{__package__}."
    names = [name for name in registry.names() if not name.startswith(library)]
    if not names:
        return (
            "none in the tasks.py of apps in INSTALLED_APPS, nor in LAMBDA_TASKS_MODULES; a stored "
            "call of a task in another module of these apps imports it"
        )
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{len(names)}: {', '.join(names[:MAX_NAMES])}{more}"


def describe_database(alias: str) -> str:
    """Return the database of the records, without its password."""
    options = settings.DATABASES[alias]
    engine = str(options["ENGINE"]).rpartition(".")[2]
    host = f" at {options['HOST']}" if options.get("HOST") else ""
    return f"{options['NAME']} ({engine}{host})"


def banner(title: str, **lines: str) -> str:
    """Return a title, and below it a line for each name and text."""
    width = max(map(len, lines))
    return "\n".join([title, *(f"  {name:{width}}  {text}" for name, text in lines.items())])


def logs_failures() -> bool:
    """Return whether the project's LOGGING shows the failures of tasks on standard output."""
    return any(
        isinstance(handler, logging.StreamHandler)
        and handler.stream in (sys.stdout, sys.stderr)
        and handler.level <= logging.ERROR
        for handler in _handlers(TASK_LOGGER)
    )


def show_lines(verbosity: int) -> None:
    """Show what tasks log with `task_logger`, unless the project's LOGGING says what to show.

    Of the library's own lines, it shows warnings and errors; with a verbosity of 2, also the starts
    of runs and what else is logged. Those about ends are left out, which the caller prints.
    """
    if TASK_LOGGER.hasHandlers():
        return
    handler = logging.StreamHandler()
    handler.addFilter(_is_for_console)
    LOGGER.addHandler(handler)
    TASK_LOGGER.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    LOGGER.setLevel(logging.INFO if verbosity > 1 else logging.WARNING)


def show_lines_if_told() -> None:
    """Do so in a process of which another one prints the ends of runs."""
    if verbosity := os.environ.get(LINES_VARIABLE):
        show_lines(int(verbosity))


def _is_for_console(record: logging.LogRecord) -> bool:
    is_about_end = record.name == TASK_LOGGER.name and record.levelno > logging.DEBUG
    return not (is_about_end and Path(record.pathname).is_relative_to(PACKAGE))


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    current: logging.Logger | None = logger
    while current is not None:
        yield from current.handlers
        current = current.parent if current.propagate else None


def _error(trace: str) -> str:
    """Return the last line with a word, as below a group of exceptions there are lines without."""
    lines = trace.splitlines()
    return next((line for line in reversed(lines) if re.search(r"\w", line)), trace).strip(" |")


def _place(trace: str) -> str:
    """Return the last place in the project's own code, or the last one at all; "" for none."""
    frames = [(each["file"], each["line"]) for each in FRAME.finditer(trace)]
    own = [frame for frame in frames if not INSTALLED.search(frame[0])]
    if not frames:
        return ""
    file, line = (own or frames)[-1]
    path = Path(file)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f" at {path}:{line}"


def _kind(queue: Queue) -> str:
    if isinstance(queue, SQSQueue):
        return "SQS"
    if isinstance(queue, BatchQueue):
        return "AWS Batch"
    return "the table" if queue.is_table else type(queue).__qualname__
