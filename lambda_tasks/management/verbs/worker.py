"""A worker that runs tasks from SQS and database queues until SIGTERM or Ctrl-C.

Then it receives no more and finishes the tasks that run. Exit codes: 0 if all received tasks are
finished, 3 if some were returned to their queue unfinished or the process hung, 1 for a mistake in
the settings.
"""

import asyncio
import gc
import json
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import OutputWrapper

from lambda_tasks import conf, runtime
from lambda_tasks.entrypoints.ending import EXIT_UNFINISHED, process_end, run_process
from lambda_tasks.entrypoints.worker import Worker, worker_of

HELP: Final = "Runs tasks outside of Lambda, from SQS and database queues."

LOG_EVERY_S: Final = 60.0
"""Seconds between two lines of JSON, where the output is not a terminal."""

REFRESH_EVERY_S: Final = 0.5
"""Seconds between two updates of the line on a terminal."""


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


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Run tasks until a signal, `--once` or `--max-tasks` ends the worker; return the exit code.

    Raises ImproperlyConfigured for a mistake in the settings.
    """
    # Loaded modules stay until the end, so that the collector need not look at them.
    gc.freeze()
    # What this process has sent before went out on another event loop.
    runtime.close()
    return run_process(_Session(stdout).work(options))


class _Session:
    """One run of a worker, with its output."""

    def __init__(self, stdout: OutputWrapper) -> None:
        self._stdout = stdout

    async def work(self, options: dict[str, Any]) -> int:
        names = options["queue"] or [
            name for name, queue in conf.current().queues.items() if queue.has_workers
        ]
        worker_context = worker_of(
            runtime.current(),
            names,
            once=options["once"],
            drain_s=options["drain"],
            concurrency=options["concurrency"],
            processes=options["processes"],
            end_within=process_end.within,
        )
        async with worker_context as worker:
            reporting = asyncio.ensure_future(self._report(worker))
            self._say(f"Running tasks of {', '.join(names)}.")
            try:
                with worker.stopped_by_signals():
                    await worker.run(max_tasks=options["max_tasks"])
            finally:
                reporting.cancel()
        self._say(
            f"{worker.done} done, of which {worker.failed} failed; "
            f"{worker.cut_off} returned to the queue unfinished."
        )
        return EXIT_UNFINISHED if worker.cut_off else 0

    async def _report(self, worker: Worker) -> None:
        """Print the progress: one changing line on a terminal, else a line of JSON at times."""
        while True:
            if self._stdout.isatty():
                counts = f"{worker.in_work} running, {worker.done} done, {worker.failed} failed "
                self._stdout.write(f"\r{counts}", ending="")
                self._stdout.flush()
                await asyncio.sleep(REFRESH_EVERY_S)
            else:
                await asyncio.sleep(LOG_EVERY_S)
                self._stdout.write(json.dumps(_counts(worker)))

    def _say(self, text: str) -> None:
        self._stdout.write(text if self._stdout.isatty() else json.dumps({"message": text}))


def _counts(worker: Worker) -> dict[str, int]:
    return {"running": worker.in_work, "done": worker.done, "failed": worker.failed}
