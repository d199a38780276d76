"""A queue, the functions that it feeds, and the ledger in which their tasks are counted."""

import random
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from asgiref.sync import async_to_sync
from django.db import connections
from django.db.models import Count

from lambda_tasks import runtime
from lambda_tasks.local import EventSourceMapping, LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app.models import Effect
from tests.servers import FunctionTimedOut, LambdaProcess, RuntimeExited

FUNCTION_TIMEOUT_S = 6.0
VISIBILITY_TIMEOUT_S = 2
RELAY_GRACE = timedelta(seconds=3)


@dataclass(frozen=True)
class Ledger:
    """What became of the tasks that were asked for."""

    lost: int
    doubled: int
    stuck: int


CLEAN = Ledger(lost=0, doubled=0, stuck=0)


def ledger(asked: Sequence[uuid.UUID]) -> Ledger:
    """Count by the first invocation: a retry's effect stands for it."""
    records = {record.id: record for record in TaskRecord.objects.all()}
    names = dict(Effect.objects.order_by().values_list("name").annotate(times=Count("pk")))
    done = {record.root_id for record in records.values() if str(record.id) in names}
    return Ledger(
        lost=sum(id not in done for id in asked),
        doubled=sum(times > 1 for times in names.values()),
        stuck=sum(record.status in ("RUNNING", "QUEUED") for record in records.values()),
    )


class Farm:
    """Use it as a context manager. `kill_one()` ends a function's sandbox, whatever it does."""

    def __init__(self, sqs: LocalSqs, queue_url: str, *, functions: int = 1, **env: str) -> None:
        self.kills = 0
        self._sqs = sqs
        self._queue_url = queue_url
        self._functions = [
            LambdaProcess(
                "tests.faults.function.handler",
                timeout_s=FUNCTION_TIMEOUT_S,
                LAMBDA_TASKS_TEST_QUEUE=queue_url,
                **env,
            )
            for _ in range(functions)
        ]
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for function in self._functions:
            function.start()
            thread = threading.Thread(target=self._feed, args=(function,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for function in self._functions:
            function.stop()

    def kill_one(self) -> None:
        """The whole sandbox, as when Lambda's host is gone."""
        random.choice(self._functions).kill_sandbox()
        self.kills += 1

    def wait_for_the_end(self, asked: Sequence[uuid.UUID], *, patience_s: float = 60) -> Ledger:
        """Until the ledger is clean and the queue empty, or patience is over; what it says then.

        Meanwhile the relay runs, as by the tick event's schedule.
        """
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            if ledger(asked) == CLEAN and self._is_worked_off():
                break
            async_to_sync(runtime.current().relay.run_once)(grace=RELAY_GRACE)
            time.sleep(0.2)
        return ledger(asked)

    def _is_worked_off(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self._sqs.client.get_queue_attributes(
            QueueUrl=self._queue_url, AttributeNames=names
        )["Attributes"]
        return all(counts[name] == "0" for name in names)

    def _feed(self, function: LambdaProcess) -> None:
        def invoke(event: object) -> object:
            try:
                return function.invoke(event)
            except (RuntimeExited, FunctionTimedOut):
                function.start()
                raise

        with EventSourceMapping(
            self._queue_url, invoke, client_options=self._sqs.client_options
        ) as mapping:
            mapping.run(self._stop.is_set)
        connections.close_all()


def marker(directory: Path) -> str:
    """A file that is not there yet."""
    return str(directory / uuid.uuid4().hex)
