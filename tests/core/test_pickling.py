"""What goes to a worker process, and comes back, arrives as it was sent."""

import pickle
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lambda_tasks.core.lifecycle import SQS_TERMS, TABLE_TERMS, Claim, Raised, Succeeded
from lambda_tasks.core.message import Message
from lambda_tasks.execution.run import AttemptEnd, Run

MESSAGE = Message(
    task_name="app.tasks.add",
    args=(1,),
    kwargs={"b": [2, {"c": None}]},
    invocation_id=uuid.uuid4(),
    n_retries=3,
    run_after=datetime(2026, 1, 1, tzinfo=UTC),
    headers={"trace": "x"},
    secret=frozenset({"b"}),
)
CLAIM = Claim(uuid.uuid4(), uuid.uuid4(), 2, state={"rows": 10}, worker_ids=("here:1",))
RUN = Run(
    message=MESSAGE,
    claim=CLAIM,
    queue="default",
    max_retries=5,
    look=TABLE_TERMS,
    hard_s=30.0,
    metadata={"runtime": "worker"},
    leaves_record=True,
)
OUTCOME = Succeeded([1], raised=Raised("ValueError", "ignored"))
END = AttemptEnd(OUTCOME, is_recorded=False, ran_for=timedelta(seconds=1.5))


@pytest.mark.parametrize("sent", [MESSAGE, CLAIM, SQS_TERMS, OUTCOME, RUN, END], ids=type)
def test_what_is_sent_to_another_process_arrives_as_it_was(sent: Any) -> None:
    arrived = pickle.loads(pickle.dumps(sent))

    assert arrived == sent
    assert repr(arrived) == repr(sent)
