"""What Django's bash completion offers after `manage.py lambda_tasks`: verbs, options and names.

Django asks the command for its parser, and offers the options in it. It knows neither verbs nor the
names of tasks, so these are printed beside.
"""

import os
import re
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from lambda_tasks import conf
from lambda_tasks.core.lifecycle import Status
from lambda_tasks.operations.checking import task_names

ASKED: Final = "DJANGO_AUTO_COMPLETE"
"""The environment variable by which the shell asks for completions."""

OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]*")

TAKE_QUEUES: Final = ("pause", "resume")
"""The verbs whose arguments are queues."""

AddArguments = Callable[[ArgumentParser], None]


def offer(verbs: Mapping[str, AddArguments]) -> None:
    """Print what can come next, if the shell asks for it. See Django's extras for bash."""
    if ASKED not in os.environ:
        return
    words = os.environ.get("COMP_WORDS", "").split()[2:]
    n_complete = int(os.environ.get("COMP_CWORD", "0")) - 2
    current = words[n_complete] if 0 <= n_complete < len(words) else ""
    found = _candidates(verbs, words[: max(n_complete, 0)])
    matching = sorted(each for each in found if each.startswith(current))
    print("\n".join(matching))


def _candidates(verbs: Mapping[str, AddArguments], before: Sequence[str]) -> Iterable[str]:
    if not before:
        return verbs
    verb, *others = before
    last = others[-1] if others else ""
    if last == "--task" or (verb == "enqueue" and not others):
        return task_names()
    if last == "--queue" or (verb in TAKE_QUEUES and not others):
        return conf.current().queues
    if last == "--status":
        return [status.value for status in Status]
    return _options_of(verbs[verb]) if verb in verbs else ()


def _options_of(add_arguments: AddArguments) -> set[str]:
    parser = ArgumentParser(add_help=False)
    add_arguments(parser)
    return set(OPTION.findall(parser.format_help()))
