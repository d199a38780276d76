"""What a caller gets as the result of an invocation."""

import asyncio
import uuid
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction
from django.db.transaction import TransactionManagementError

from lambda_tasks import Invocation
from lambda_tasks.models import TaskRecord
from lambda_tasks.testing import CapturedTasks
from tests.app import results
from tests.app.results import Receipt

RECEIPT = Receipt(Decimal("1.50"), datetime(2026, 1, 1, tzinfo=UTC))
AT = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_result_has_the_type_of_its_annotation(captured_tasks: CapturedTasks) -> None:
    one = results.make_receipt.execute_on_commit()
    many = results.make_receipts.execute_on_commit(n=2)
    captured_tasks.run()

    assert one.result(timeout=0) == RECEIPT
    assert asyncio.run(one.aresult(timeout=0)) == RECEIPT
    assert many.result(timeout=0) == {"many": [RECEIPT, RECEIPT], "none": None}


def test_a_record_keeps_the_result_as_json(captured_tasks: CapturedTasks) -> None:
    invocation = results.make_receipt.execute_on_commit()

    [record] = captured_tasks.run()

    assert record.result == {"cents": "1.50", "at": "2026-01-01T00:00:00Z"}
    assert record.id == invocation.id


def test_a_result_without_an_annotation_is_json(captured_tasks: CapturedTasks) -> None:
    bare, of_any_type = (
        task.execute_on_commit(at=AT) for task in (results.without_annotation, results.of_any_type)
    )
    captured_tasks.run()

    assert bare.result(timeout=0) == "2026-01-01T00:00:00Z"
    assert of_any_type.result(timeout=0) == "2026-01-01T00:00:00Z"


def test_an_id_that_was_kept_is_enough_for_the_result(captured_tasks: CapturedTasks) -> None:
    id = results.make_receipt.execute_on_commit().id
    captured_tasks.run()

    assert Invocation[Receipt](id).result(timeout=0) == RECEIPT
    assert repr(Invocation(id)) == f"<Invocation {id} of a task>"


def test_the_result_of_a_task_that_is_gone_is_json(captured_tasks: CapturedTasks) -> None:
    id = results.make_receipt.execute_on_commit().id
    captured_tasks.run()
    TaskRecord.objects.filter(id=id).update(task_name="tests.app.results.gone")

    assert Invocation(id).result(timeout=0)["cents"] == "1.50"


def test_a_result_that_does_not_fit_its_annotation_is_an_error(
    captured_tasks: CapturedTasks,
) -> None:
    invocation = results.not_as_annotated.execute_on_commit()
    [record] = captured_tasks.run()

    with pytest.raises(
        TypeError, match=r"(?s)The result of not_as_annotated .*valid integer.*JSON value"
    ):
        invocation.result(timeout=0)
    assert record.result == "a text"


def test_an_annotation_that_only_checkers_can_read_is_told_when_the_result_is_read(
    captured_tasks: CapturedTasks,
) -> None:
    invocation = results.annotated_for_checkers.execute_on_commit(a=1)
    [record] = captured_tasks.run()

    with pytest.raises(
        TypeError, match=r"annotated_for_checkers: the return annotation.*outside of `if TYPE_CHECK"
    ):
        invocation.result(timeout=0)
    assert record.result == "1"


def test_waiting_in_the_transaction_of_the_call_is_an_error(captured_tasks: CapturedTasks) -> None:
    with transaction.atomic():
        invocation = results.make_receipt.execute_on_commit()
        with pytest.raises(TransactionManagementError, match="transaction that is still open"):
            invocation.result(timeout=0)
        with pytest.raises(TransactionManagementError, match=r"after the `with transaction"):
            invocation.result()

    with transaction.atomic(), pytest.raises(TimeoutError):
        invocation.result(timeout=0)
    captured_tasks.run()
    assert invocation.result(timeout=0) == RECEIPT


def test_the_sync_forms_name_their_twins_in_an_event_loop() -> None:
    invocation = Invocation(uuid.uuid4())

    async def in_a_loop() -> None:
        with pytest.raises(SynchronousOnlyOperation, match=r"await invocation\.arecord\(\)"):
            invocation.record()
        with pytest.raises(SynchronousOnlyOperation, match=r"await invocation\.aresult\(\.\.\.\)"):
            invocation.result()
        assert await invocation.arecord() is None

    asyncio.run(in_a_loop())
