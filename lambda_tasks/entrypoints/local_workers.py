"""The child of LAMBDA_TASKS_LOCAL_WORKERS: a worker of all queues while its parent lives."""

import asyncio
import os
import sys
from typing import Final

import django

from .. import conf, runtime
from .ending import process_end, run_process
from .worker import worker_of

FINISH_S: Final = 5.0
"""Seconds to start the due tasks after the parent ended. The next worker runs the others."""

DRAIN_S: Final = 5.0
"""Seconds for the runs that are not finished then. A reload may have to wait for both."""


async def serve() -> None:
    """Run the tasks of all queues until standard input ends."""
    queues = list(conf.current().queues)
    worker_of_all = worker_of(
        runtime.current(), queues, drain_s=DRAIN_S, end_within=process_end.within
    )
    async with worker_of_all as worker:
        loop = asyncio.get_running_loop()

        def on_word_from_parent() -> None:
            if os.read(sys.stdin.fileno(), 4096):
                worker.wake()
                return
            loop.remove_reader(sys.stdin.fileno())
            worker.finish()
            loop.call_later(FINISH_S, worker.stop)

        loop.add_reader(sys.stdin.fileno(), on_word_from_parent)
        worker.stop_on_signals()
        await worker.run()


if __name__ == "__main__":
    django.setup()
    run_process(serve())
