"""The child's side of a worker process: it takes runs from its parent's socket and answers each.

The fork server imports this module before it forks, so every child starts with the project loaded.
"""

import gc
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection

import django
from django.apps import apps
from django.db import connections

from .. import interrupts, pools, registry
from ..errors import HardTimeLimitExceeded, LambdaTasksError
from . import run_socket
from .attempt import MakeAttempt
from .connections import forget_in_children
from .inline import run_inline
from .run import AttemptEnd, Run
from .worker_pipe import NO_RUN, READY, tell

Reply = AttemptEnd | LambdaTasksError
"""The answer to a run. The error says why the record could not be written."""


def prepare() -> None:
    """Load the project, and close everything that a fork must not share."""
    if not apps.ready:
        django.setup()
    registry.discover()
    connections.close_all()
    pools.close()
    # A garbage collection in a child would write to each object, and so copy the shared pages.
    gc.freeze()


def serve(pipe: Connection, workers_end: socket.socket, wire: Callable[[], MakeAttempt]) -> None:
    """Run tasks until the parent's end closes. `wire` is called once the project is loaded.

    Then it ends, with all processes that its tasks have started and that have not left its group.
    """
    # A process group for this process and all that its tasks start: the parent kills the group.
    os.setpgid(0, 0)
    # Ctrl+C at a terminal reaches all processes. The parent handles it, and ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prepare()
    _allow_children()
    make_attempt = wire()
    reply = pools.returning_connections(_reply)
    interrupts.limit_connecting()
    try:
        pipe.send_bytes(READY)
        _run_tasks(pipe, workers_end, lambda run: reply(run, make_attempt))
    except (EOFError, ConnectionError):
        os.killpg(0, signal.SIGKILL)


def _run_tasks(pipe: Connection, workers_end: socket.socket, reply: Callable[[Run], Reply]) -> None:
    """Take and answer one run after the other. Raises EOFError once the parent is gone."""
    ended, answer = NO_RUN, None
    while True:
        taken = run_socket.take(workers_end, pipe, waits=ended == NO_RUN)
        if taken is None:
            tell(pipe, ended=ended, answer=answer)
            ended, answer = NO_RUN, None
            continue
        tell(pipe, ended=ended, answer=answer, begun=taken.number)
        ended, answer = taken.number, reply(taken.load())
        if isinstance(answer, AttemptEnd) and answer.replaces_process:
            tell(pipe, ended=ended, answer=answer)
            pipe.recv_bytes()  # nothing comes: the parent kills this process


def _allow_children() -> None:
    """Let tasks use multiprocessing as in any other process."""
    # Python lets no daemonic process have children. For its parent this one stays daemonic, so that
    # the parent's exit does not wait for it.
    multiprocessing.current_process().daemon = False
    # A process of a fork server has the start method of its parent, instead of the platform's.
    multiprocessing.set_start_method(None, force=True)
    multiprocessing.set_forkserver_preload([f"{__package__}.preload"])
    forget_in_children()


def _reply(run: Run, make_attempt: MakeAttempt) -> Reply:
    try:
        task = registry.resolve(run.message.task_name, run.message.backend)
        attempt = make_attempt(run, task)
        ended = run_inline(attempt, with_limits=True)
    except KeyboardInterrupt:
        return AttemptEnd(None, interrupted=True)
    except Exception as error:
        return LambdaTasksError(f"The record could not be written: {error!r}")
    was_timed_out = isinstance(attempt.error, HardTimeLimitExceeded) and ended.outcome is not None
    return replace(ended, replaces_process=True) if was_timed_out else ended
