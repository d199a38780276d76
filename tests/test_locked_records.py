"""A claim waits for nobody: what another transaction has locked goes back, its neighbours run."""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from lambda_tasks.core.lifecycle import LOCKED, Refusal, Refused
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery, Granted, ResolvedDelivery
from lambda_tasks.records.claims import RecordClaims
from tests.app import tasks
from tests.conftest import Handle, body

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="it locks no rows"),
]


@contextmanager
def locked(id: uuid.UUID | str) -> Iterator[None]:
    """By a transaction that goes nowhere meanwhile."""
    with transaction.atomic():
        TaskRecord.objects.select_for_update().get(id=id)
        yield


def stored(count: int) -> list[str]:
    """The messages of so many records that wait."""
    calls = [{"a": number} for number in range(count)]
    ids = [each.id for each in tasks.add.using(queue="other").execute_many_on_commit(calls)]
    return [
        body(tasks.add, _id=id, **call)[:-1] + ', "durable": true}'
        for id, call in zip(ids, calls, strict=True)
    ]


def requests(messages: list[str]) -> list[ResolvedDelivery]:
    from lambda_tasks.core.message import decode

    decoded = [decode(each, fallback_id=uuid.uuid4()) for each in messages]
    return [
        ResolvedDelivery(
            delivery=Delivery(id="1", source="other", fallback_id=each.invocation_id),
            message=each,
            task=tasks.add,
        )
        for each in decoded
    ]


@pytest.mark.parametrize("is_lost", [False, True], ids=["queued", "of a lost run"])
def test_a_locked_record_goes_back_and_its_neighbours_run(
    handle: Handle, queue: str, is_lost: bool
) -> None:
    messages = stored(10)
    locked_id = json.loads(messages[3])["invocation_id"]
    if is_lost:
        TaskRecord.objects.filter(id=locked_id).update(
            status="RUNNING", n_attempts=1, lease_until=timezone.now() - timedelta(minutes=1)
        )

    with locked(locked_id):
        back = handle(*messages, timeout_s=60)

    assert back == [3]
    assert TaskRecord.objects.filter(status="SUCCESS").count() == 9
    assert handle(messages[3]) == []
    assert TaskRecord.objects.filter(status="SUCCESS").count() == 10


def test_a_locked_record_is_looked_at_again_in_a_few_seconds(queue: str) -> None:
    messages = stored(3)
    wanted = requests(messages)

    def claim() -> None:
        verdicts.update(RecordClaims().claim(wanted, lease=timedelta(minutes=1), max_attempts=3))
        connection.close()

    verdicts: dict[uuid.UUID, Granted | Refused] = {}
    claiming = threading.Thread(target=claim)
    with locked(wanted[0].message.invocation_id):
        claiming.start()
        claiming.join(60)
        assert not claiming.is_alive(), "it waits for the lock"

    refused, *granted = (verdicts[each.message.invocation_id] for each in wanted)
    assert refused is LOCKED
    assert isinstance(refused, Refused)
    assert (refused.refusal, refused.retry_after_s) == (Refusal.HELD, 5)
    assert all(isinstance(each, Granted) for each in granted)


def test_a_record_that_is_locked_for_a_moment_is_claimed_after_all(queue: str) -> None:
    (message,) = requests(stored(1))
    looked = threading.Event()

    def hold_until_looked_at() -> None:
        with locked(message.message.invocation_id):
            is_locked.set()
            looked.wait(60)
        connection.close()

    def notice(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if "run_after" in sql and sql.startswith("SELECT"):
            looked.set()
            holding.join(60)
        return result

    is_locked = threading.Event()
    holding = threading.Thread(target=hold_until_looked_at)
    holding.start()
    is_locked.wait(60)
    with connection.execute_wrapper(notice):
        verdicts = RecordClaims().claim([message], lease=timedelta(minutes=1), max_attempts=3)

    assert isinstance(verdicts[message.message.invocation_id], Granted)


def test_a_message_whose_record_another_is_about_to_insert_holds_up_no_other(
    handle: Handle,
) -> None:
    messages = [body(tasks.aadd_direct, a=number) for number in range(10)]
    id = json.loads(messages[3])["invocation_id"]

    with transaction.atomic():
        TaskRecord.objects.create(id=id, task_name="another", kwargs={}, root_id=id)
        back = handle(*messages, timeout_s=60)
        transaction.set_rollback(True)

    assert back == [3]
    assert TaskRecord.objects.filter(status="SUCCESS").count() == 9
    assert handle(messages[3]) == []


def test_a_locked_record_that_was_started_too_often_holds_up_no_other(
    handle: Handle, queue: str
) -> None:
    messages = stored(2)
    id = json.loads(messages[0])["invocation_id"]
    TaskRecord.objects.filter(id=id).update(n_attempts=5)

    with locked(id):
        back = handle(*messages, timeout_s=60)

    assert back == [0]
    assert TaskRecord.objects.get(id=id).status == "QUEUED"
    assert TaskRecord.objects.filter(status="SUCCESS").count() == 1


@pytest.mark.skipif(connection.vendor != "postgresql", reason="another takes a statement more")
def test_to_pass_over_what_is_locked_takes_no_statement_of_its_own(
    queue: str, django_assert_num_queries: Any
) -> None:
    wanted = requests(stored(10))
    claim = RecordClaims().claim
    claim(requests(stored(10)), lease=timedelta(minutes=1), max_attempts=3)  # is composed now

    with django_assert_num_queries(1):
        claim(wanted, lease=timedelta(minutes=1), max_attempts=3)
