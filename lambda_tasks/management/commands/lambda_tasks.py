"""`manage.py lambda_tasks worker`: see `--help`."""

import asyncio
import json
import sys
from argparse import ArgumentParser
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from lambda_tasks import conf, runtime
from lambda_tasks.worker import Worker

CUT_OFF: Final = 3
"""The exit code where tasks had to be given back unfinished."""

SAY_EVERY_S: Final = 60.0
SHOW_EVERY_S: Final = 0.5


class Command(BaseCommand):
    """Works off the queues outside of Lambda."""

    help = "Runs tasks outside of Lambda, from SQS and database queues."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """One subcommand so far."""
        commands = parser.add_subparsers(dest="subcommand", required=True)
        worker = commands.add_parser(
            "worker",
            help=self.help,
            description=(
                "Takes tasks until SIGTERM or Ctrl-C, then finishes what runs. Exit codes: 0 when "
                f"all that was taken is finished, {CUT_OFF} when some had to be given back, 1 for "
                "a mistake in the settings."
            ),
        )
        worker.add_argument(
            "--queue", action="append", metavar="NAME", help="one of LAMBDA_TASKS_QUEUES; all"
        )
        worker.add_argument("--concurrency", type=int, metavar="N", help="async tasks at once")
        worker.add_argument("--processes", type=int, metavar="N", help="for sync tasks")
        worker.add_argument("--once", action="store_true", help="stop when there is nothing to do")
        worker.add_argument("--max-tasks", type=int, metavar="N", help="stop after so many")
        worker.add_argument(
            "--drain", type=float, default=25, metavar="SECONDS",
            help="for what runs when it is told to stop (25; ECS kills after 30)",
        )  # fmt: skip

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError for a mistake in the settings; exits with CUT_OFF."""
        try:
            cut_off = asyncio.run(self._work(options))
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        if cut_off:
            sys.exit(CUT_OFF)

    async def _work(self, options: dict[str, Any]) -> int:
        names = options["queue"] or [
            name
            for name, queue in conf.current().queues.items()
            if not isinstance(queue, conf.BatchQueue)
        ]
        here = runtime.current()
        worker, executor = here.worker(
            names,
            once=options["once"],
            drain_s=options["drain"],
            concurrency=options["concurrency"],
            processes=options["processes"],
        )
        telling = asyncio.ensure_future(self._tell(worker))
        self._say(f"Takes tasks of {', '.join(names)}.")
        try:
            with worker.stopped_by_signals():
                await worker.run(max_tasks=options["max_tasks"])
        finally:
            telling.cancel()
            await executor.aclose()
            await runtime.aclose(here)
        self._say(f"{worker.done} done, {worker.cut_off} given back unfinished.")
        return worker.cut_off

    async def _tell(self, worker: Worker) -> None:
        """A line that changes on a terminal, a line of JSON now and then elsewhere."""
        while True:
            if self.stdout.isatty():
                self.stdout.write(f"\r{worker.in_work} running, {worker.done} done ", ending="")
                self.stdout.flush()
                await asyncio.sleep(SHOW_EVERY_S)
            else:
                await asyncio.sleep(SAY_EVERY_S)
                self.stdout.write(json.dumps({"running": worker.in_work, "done": worker.done}))

    def _say(self, text: str) -> None:
        self.stdout.write(text if self.stdout.isatty() else json.dumps({"message": text}))
