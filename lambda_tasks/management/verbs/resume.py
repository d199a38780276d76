"""Lets paused queues go on: workers of the table at once, what SQS sends with the next tick.

Asks first; --yes skips the question. Exit codes: 0 if it was done, 2 for an unknown queue, 3 if
none of them is paused (--empty-exit-code).
"""

from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks.management import pausing

HELP: Final = "Lets paused queues go on."

add_arguments = pausing.add_arguments


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Resume queues, and return the exit code. See pausing.run()."""
    return pausing.run(stdout, options, pausing.RESUME)
