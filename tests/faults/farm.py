"""A queue, the functions that it feeds, and the ledger in which their tasks are counted."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asgiref.sync import async_to_sync
from django.db.models import Count

from lambda_tasks import runtime
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app.models import Effect
from tests.servers import Fleet, LambdaProcess

FUNCTION_TIMEOUT_S = 16.0
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


class Farm(Fleet):
    """Functions of the tests' own, and the ledger of what they did."""

    def __init__(
        self,
        sqs: LocalSqs,
        queue_url: str,
        *,
        functions: int = 1,
        timeout_s: float = FUNCTION_TIMEOUT_S,
        **env: str,
    ) -> None:
        self._sqs = sqs
        handlers = [
            LambdaProcess(
                "tests.faults.function.handler",
                timeout_s=timeout_s,
                LAMBDA_TASKS_TEST_QUEUE=queue_url,
                **env,
            )
            for _ in range(functions)
        ]
        super().__init__(queue_url, handlers, client_options=sqs.client_options)

    def wait_for_the_end(
        self, asked: Sequence[uuid.UUID], *, patience_s: float = 300, ends_leases: bool = True
    ) -> Ledger:
        """Until the ledger is clean and the queue empty, or patience is over; what it says then.

        Meanwhile the relay runs, as by the tick event's schedule. With `ends_leases` those of the
        dead are over at once; who else runs something has lost its lease, too, and must not commit.
        """
        deadline, n_ended = time.monotonic() + patience_s, 0
        while time.monotonic() < deadline:
            if ledger(asked) == CLEAN and self._is_worked_off():
                break
            if ends_leases and self.n_ended > n_ended:
                n_ended = self.n_ended
                running = TaskRecord.objects.filter(status="RUNNING")
                running.update(lease_until=datetime(2020, 1, 1, tzinfo=UTC))
            async_to_sync(runtime.current().relay.run_once)(grace=RELAY_GRACE)
            time.sleep(0.2)
        return ledger(asked)

    def _is_worked_off(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self._sqs.client.get_queue_attributes(
            QueueUrl=self._queue_url, AttributeNames=names
        )["Attributes"]
        return all(counts[name] == "0" for name in names)


def marker(directory: Path) -> str:
    """A file that is not there yet."""
    return str(directory / uuid.uuid4().hex)
