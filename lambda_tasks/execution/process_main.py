"""The child's side of a worker process: takes runs from a pipe, one at a time, and answers.

Imported by the fork server before it forks, so that every child starts with the project loaded.
"""

import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import django
from django.apps import apps
from django.db import connections

from .attempt import Ended, MakeAttempt, Run
from .inline import run_inline


@dataclass(frozen=True, slots=True)
class Job:
    """What travels to the child. `metadata` is for the task's context."""

    run: Run
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What travels back; `error` where the record could not be written."""

    ended: Ended | None
    error: str = ""


def prepare() -> None:
    """Load the project, and leave nothing open that a fork must not share."""
    if not apps.ready:
        django.setup()
    from .. import registry

    registry.discover()
    connections.close_all()


def serve(pipe: Connection, make_attempt: MakeAttempt) -> None:
    """Run jobs until the other end closes."""
    # A group of its own: whatever a task has started goes with it when it is killed.
    os.setpgid(0, 0)
    # Ctrl+C at a terminal is for the parent, which ends its children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prepare()
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        pipe.send(_reply(job, make_attempt))


def _reply(job: Job, make_attempt: MakeAttempt) -> Reply:
    try:
        attempt, context = make_attempt(job.run, job.metadata)
        return Reply(run_inline(attempt, context, with_limits=True, may_leave_record=True))
    except KeyboardInterrupt:
        return Reply(Ended(None, interrupted=True))
    except Exception as error:
        return Reply(None, repr(error))
