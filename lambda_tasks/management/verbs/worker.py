"""Takes tasks until SIGTERM or Ctrl-C, then finishes what runs. Exit codes: 0 when all that was
taken is finished, 3 when some had to be given back or its process hung, 1 for a mistake in the
settings."""

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

SAY_EVERY_S: Final = 60.0
SHOW_EVERY_S: Final = 0.5


def add_arguments(parser: ArgumentParser) -> None:
    """See HELP."""
    parser.add_argument(
        "--queue", action="append", metavar="NAME", help="one of LAMBDA_TASKS_QUEUES; all"
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="async tasks at once")
    parser.add_argument("--processes", type=int, metavar="N", help="for sync tasks")
    parser.add_argument("--once", action="store_true", help="stop when there is nothing to do")
    parser.add_argument("--max-tasks", type=int, metavar="N", help="stop after so many")
    parser.add_argument(
        "--drain", type=float, default=25, metavar="SECONDS",
        help="for what runs when it is told to stop (25; ECS kills after 30)",
    )  # fmt: skip


def run(stdout: OutputWrapper, options: dict[str, Any]) -> int:
    """Raises ImproperlyConfigured."""
    gc.freeze()  # as in handler: what is loaded by now stays
    runtime.close()  # what this process has sent until now went out on another loop
    return run_process(_Session(stdout).work(options))


class _Session:
    def __init__(self, stdout: OutputWrapper) -> None:
        self._stdout = stdout

    async def work(self, options: dict[str, Any]) -> int:
        names = options["queue"] or [
            name for name, queue in conf.current().queues.items() if queue.has_workers
        ]
        chosen = worker_of(
            runtime.current(),
            names,
            once=options["once"],
            drain_s=options["drain"],
            concurrency=options["concurrency"],
            processes=options["processes"],
            end_within=process_end.within,
        )
        async with chosen as worker:
            telling = asyncio.ensure_future(self._tell(worker))
            self._say(f"Takes tasks of {', '.join(names)}.")
            try:
                with worker.stopped_by_signals():
                    await worker.run(max_tasks=options["max_tasks"])
            finally:
                telling.cancel()
        self._say(f"{worker.done} done, {worker.cut_off} given back unfinished.")
        return EXIT_UNFINISHED if worker.cut_off else 0

    async def _tell(self, worker: Worker) -> None:
        """A line that changes on a terminal, a line of JSON now and then elsewhere."""
        while True:
            if self._stdout.isatty():
                self._stdout.write(f"\r{worker.in_work} running, {worker.done} done ", ending="")
                self._stdout.flush()
                await asyncio.sleep(SHOW_EVERY_S)
            else:
                await asyncio.sleep(SAY_EVERY_S)
                self._stdout.write(json.dumps({"running": worker.in_work, "done": worker.done}))

    def _say(self, text: str) -> None:
        self._stdout.write(text if self._stdout.isatty() else json.dumps({"message": text}))
