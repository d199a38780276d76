"""Lets queues hand out nothing until `resume`. What runs goes on, and direct calls run.

Asks first; --yes skips the question. Exit codes: 0 if it was done, 2 for an unknown queue, 3 if all
of them are paused already (--empty-exit-code).
"""

from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks.management import pausing

HELP: Final = "Lets queues hand out nothing for a while."

add_arguments = pausing.add_arguments


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Pause queues, and return the exit code. See pausing.run()."""
    return pausing.run(stdout, options, pausing.PAUSE)
