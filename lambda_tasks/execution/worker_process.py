"""The child's side of a worker process: takes runs from its parent, one at a time, and answers.

Imported by the fork server before it forks, so that every child starts with the project loaded.
"""

import gc
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

import django
from django.apps import apps
from django.db import connections

from .. import interrupts, pools, registry
from ..errors import LambdaTasksError
from . import worker_pipe
from .attempt import MakeAttempt
from .inline import run_inline
from .run import Ended, Run

Reply = Ended | LambdaTasksError
"""The error says why the record could not be written."""


def prepare() -> None:
    """Load the project, and leave nothing open that a fork must not share."""
    if not apps.ready:
        django.setup()
    registry.discover()
    connections.close_all()
    pools.close()
    gc.freeze()  # so that its collector of garbage does not copy what the fork shares


def serve(pipe: Connection, wire: Callable[[], MakeAttempt]) -> None:
    """Make runs until the other end closes. `wire` is called once the project is loaded."""
    # A group of its own: whatever a task has started goes with it when it is killed.
    os.setpgid(0, 0)
    # Ctrl+C at a terminal is for the parent, which ends its children in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prepare()
    make_attempt = wire()
    reply = pools.returning_connections(_reply)
    interrupts.limit_connecting()
    pipe.send_bytes(worker_pipe.READY)
    while True:
        try:
            run: Run = worker_pipe.receive(pipe)
        except EOFError:
            return
        worker_pipe.send(pipe, reply(run, make_attempt))


def _reply(run: Run, make_attempt: MakeAttempt) -> Reply:
    try:
        task = registry.resolve(run.message.task_name, run.message.backend)
        attempt = make_attempt(run, task)
        return run_inline(attempt, with_limits=True, may_leave_record=True)
    except KeyboardInterrupt:
        return Ended(None, interrupted=True)
    except Exception as error:
        return LambdaTasksError(f"The record could not be written: {error!r}")
