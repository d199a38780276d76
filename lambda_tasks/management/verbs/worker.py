"""A worker that runs tasks from SQS and database queues until SIGTERM or Ctrl-C.

Then it receives no more and finishes the tasks that run; a second signal gives them back to their
queues. On a terminal it prints the end of each run. -v 0 prints nothing but the log, -v 2 also the
starts of runs, and the ends wherever the output goes. Exit codes: 0 if all received tasks are
finished, 3 if some were returned to their queue unfinished or the process hung, 1 for a mistake in
the settings, without `migrate`, or where the database does not answer for half a minute at the
start. --failed-exit-code and --empty-exit-code set others for tasks that have failed, and where
there were none.
"""

import asyncio
import gc
import json
import logging
import os
import time
from argparse import ArgumentParser
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from django.core.management.base import OutputWrapper
from django.db import DatabaseError, InterfaceError, OperationalError

from lambda_tasks import conf, console, registry, runtime
from lambda_tasks.database_calls import call_database
from lambda_tasks.entrypoints.ending import EXIT_UNFINISHED, process_end, run_process
from lambda_tasks.entrypoints.worker import Listener, Worker, worker_of
from lambda_tasks.execution import fork_server
from lambda_tasks.management.parsing import add_exit_code
from lambda_tasks.management.screen import Screen
from lambda_tasks.records import queries
from lambda_tasks.records.database import record_alias

logger = logging.getLogger("lambda_tasks")

HELP: Final = "Runs tasks outside of Lambda, from SQS and database queues."

LOG_EVERY_S: Final = 60.0
"""Seconds between two lines of JSON, where the output is not a terminal."""

REFRESH_EVERY_S: Final = 0.5
"""Seconds between two updates of the line on a terminal."""

START_FOR_S: Final = 30.0
"""Seconds in which a worker tries to reach the database at its start, as while that restarts."""

START_PAUSE_S: Final = 1.0
"""Seconds between two tries."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of `worker`."""
    parser.add_argument(
        "--queue", action="append", metavar="NAME",
        help="a queue of LAMBDA_TASKS_QUEUES; repeat it for several (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency", type=int, metavar="N",
        help="the number of async tasks at a time (default: LAMBDA_TASKS_CONCURRENCY)",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=int, metavar="N",
        help="the number of processes for sync tasks (default: LAMBDA_TASKS_PROCESSES)",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="stop when there is nothing more to do")
    parser.add_argument(
        "--max-tasks", type=int, metavar="N", help="stop after N tasks have started"
    )
    parser.add_argument(
        "--drain", type=float, default=25, metavar="SECONDS",
        help="the time for running tasks to finish after SIGTERM "
        "(default: 25; ECS kills containers after 30)",
    )  # fmt: skip

    add_exit_code(parser, "failed", 0, "a task failed")
    add_exit_code(parser, "empty", 0, "no task was done")


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Run tasks until a signal, `--once` or `--max-tasks` ends the worker; return the exit code.

    Raises ImproperlyConfigured for a mistake in the settings, and NotMigrated where a table is
    missing.
    """
    _check_database()
    # What this process has sent before went out on another event loop.
    runtime.close()
    session = _Session(stdout, options)
    session.prepare()
    if session.shows_ends or all(task.is_async for task in registry.tasks()):
        # It was started with the process: too early to know that it shows ends, or has no tasks.
        fork_server.kill()
    # Loaded modules stay until the end, so that the collector need not look at them.
    gc.freeze()
    return run_process(session.work())


def _check_database() -> None:
    """Check the tables, once the database answers. Raises its error if it never does."""
    give_up_at = time.monotonic() + START_FOR_S
    while True:
        try:
            queries.check_migrated()
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > give_up_at:
                raise
            logger.warning("The database does not answer, and is asked again: %s", error)
            time.sleep(START_PAUSE_S)
        else:
            return


class _Session(Listener):
    """One run of a worker, with its output: text on a terminal, lines of JSON elsewhere."""

    def __init__(self, stdout: OutputWrapper, options: dict[str, Any]) -> None:
        self._options = options
        self._screen = Screen(stdout)
        self._is_terminal = stdout.isatty()
        self._is_quiet = options["verbosity"] == 0
        self.shows_ends = not self._is_quiet and (self._is_terminal or options["verbosity"] > 1)
        self._with_traceback = not console.logs_failures()
        self._ended: list[UUID] = []
        self._queues = options["queue"] or [
            name for name, queue in conf.current().queues.items() if queue.has_workers
        ]

    def prepare(self) -> None:
        """Print what the worker will do, and let its processes leave the ends of runs to it."""
        settings = conf.current()
        concurrency = self._options["concurrency"] or settings.concurrency
        processes = self._options["processes"] or settings.processes
        self._start = {
            "queues": console.describe_queues(settings.queue(name) for name in self._queues),
            "concurrency": f"{concurrency} async tasks at a time",
            "processes": f"{processes} for sync tasks",
            "tasks": console.describe_tasks(),
            "database": console.describe_database(record_alias()),
        }
        if self.shows_ends:
            os.environ[console.LINES_VARIABLE] = str(self._options["verbosity"])
            console.show_lines_if_told()

    async def work(self) -> int:
        """Run the worker, and return the exit code."""
        worker_context = worker_of(
            runtime.current(),
            self._queues,
            once=self._options["once"],
            drain_s=self._options["drain"],
            concurrency=self._options["concurrency"],
            processes=self._options["processes"],
            end_within=process_end.within,
            listener=self,
        )
        async with worker_context as worker:
            reporting = asyncio.ensure_future(self._report(worker))
            self._say_start()
            try:
                worker.stop_on_signals()
                await worker.run(max_tasks=self._options["max_tasks"])
            finally:
                reporting.cancel()
            await self._say_ends()
        exit_code = self._exit_code(worker)
        self._say(
            f"{worker.done} done, of which {worker.failed} failed; "
            f"{worker.cut_off} returned to the queue unfinished.",
            done=worker.done,
            failed=worker.failed,
            returned=worker.cut_off,
            exit_code=exit_code,
        )
        return exit_code

    def _exit_code(self, worker: Worker) -> int:
        if worker.cut_off:
            return EXIT_UNFINISHED
        if worker.failed:
            return int(self._options["failed_exit_code"])
        return 0 if worker.done else int(self._options["empty_exit_code"])

    def ended(self, invocation_id: UUID) -> None:
        """See Listener."""
        if self.shows_ends:
            self._ended.append(invocation_id)

    def stopping(self, n_running: int, limit_s: float) -> None:
        """See Listener."""
        if n_running:
            self._say(
                f"Finishing {n_running} (up to {limit_s:g} s); Ctrl-C once more gives them back."
            )

    def interrupting(self, n_running: int) -> None:
        """See Listener."""
        if n_running:
            self._say(f"Giving {n_running} back to their queues.")

    async def _report(self, worker: Worker) -> None:
        """Print ends and the progress: a changing line on a terminal, else JSON at times."""
        next_counts_at = time.monotonic() + LOG_EVERY_S
        while not self._is_quiet:
            await asyncio.sleep(REFRESH_EVERY_S)
            await self._say_ends()
            if self._is_terminal:
                counts = f"{worker.in_work} running, {worker.done} done, {worker.failed} failed"
                with suppress(OSError):
                    self._screen.show(counts)
            elif time.monotonic() >= next_counts_at:
                with suppress(OSError):
                    self._screen.say(json.dumps(_counts(worker)))
                next_counts_at += LOG_EVERY_S

    async def _say_ends(self) -> None:
        ids = list(self._ended)
        if not ids:
            return
        try:
            records = await call_database(queries.find_many, ids)
        except DatabaseError:
            return
        # Only now: while it waits, the end of the worker may cancel the task that shows the ends.
        del self._ended[: len(ids)]
        for record in records:
            self._say(console.describe_end(record, with_traceback=self._with_traceback))

    def _say_start(self) -> None:
        if self._is_terminal:
            self._say(console.banner("lambda_tasks worker (Ctrl-C stops it)", **self._start))
        else:
            self._say(f"Running tasks of {', '.join(self._queues)}.", **self._start)

    def _say(self, text: str, **more: object) -> None:
        if self._is_quiet:
            return
        # Tasks run, and go back to their queues, whether or not anybody reads of it.
        with suppress(OSError):
            self._screen.say(text if self._is_terminal else json.dumps({"message": text} | more))


def _counts(worker: Worker) -> dict[str, int]:
    return {"running": worker.in_work, "done": worker.done, "failed": worker.failed}
