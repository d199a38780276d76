"""What every user meets: log lines, the built-in task, the types of the call forms."""

import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, assert_type

import pytest
from django.utils.timezone import now

from lambda_tasks import Invocation, LambdaTaskWrapper, lambda_task, task_logger
from lambda_tasks.logging import TaskContextFilter
from lambda_tasks.models import TaskRecord
from lambda_tasks.tasks import cleanup_task_records
from tests.app import tasks
from tests.conftest import Handle, body, record_of


@pytest.fixture
def _filtered(caplog: Any) -> Iterator[None]:
    """Give each line to the filter first. All tests share caplog's handler."""
    its_filter = TaskContextFilter()
    caplog.handler.addFilter(its_filter)
    yield
    caplog.handler.removeFilter(its_filter)


@pytest.mark.usefixtures("_filtered")
def test_a_tasks_lines_carry_its_invocation(handle: Handle, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    message = body(tasks.log_a_line, text="a line of its own")

    handle(message)

    (line,) = [each for each in caplog.records if "a line of its own" in each.getMessage()]
    id = str(record_of(message).id)
    assert line.getMessage() == "a line of its own"
    assert (line.invocation_id, line.task_name, line.attempt) == (id, tasks.log_a_line.name, 1)


@pytest.mark.usefixtures("_filtered")
def test_lines_outside_of_a_task_carry_nothing(caplog: Any) -> None:
    task_logger.warning("outside")

    (line,) = caplog.records
    assert (line.getMessage(), line.invocation_id, line.attempt) == ("outside", "", "")


@pytest.mark.django_db(transaction=True)
def test_cleanup_deletes_what_was_finished_long_ago_and_returns_the_count(
    monkeypatch: Any,
) -> None:
    from lambda_tasks import tasks as built_in

    monkeypatch.setattr(built_in, "CHUNK_SIZE", 3)  # so that seven take three chunks
    old, recent = now() - timedelta(days=8), now() - timedelta(days=6)
    for status in ("SUCCESS", "FAILED", "RETRYING", "CANCELLED", *["SUCCESS"] * 3):
        TaskRecord.objects.create(task_name="f", kwargs={}, status=status, end_time=old)
    kept = [
        TaskRecord.objects.create(task_name="f", kwargs={}, status="SUCCESS", end_time=recent),
        TaskRecord.objects.create(task_name="f", kwargs={}, status="QUEUED", enqueued_at=old),
        TaskRecord.objects.create(task_name="f", kwargs={}, status="RUNNING", start_time=old),
    ]

    assert cleanup_task_records() == 7
    assert set(TaskRecord.objects.all()) == set(kept)
    assert cleanup_task_records(retention_days=5) == 1


@lambda_task
def typed(*, a: int, b: str = "") -> float:
    return float(a)


@lambda_task(retry_on=(OSError,))
async def atyped(*, a: int) -> uuid.UUID:
    return uuid.uuid4()


def test_a_type_checker_knows_the_arguments_and_the_result() -> None:
    # What matters here is checked by mypy and pyright; a wrong argument must be an error to it.
    def never(call: Callable[[], Any]) -> None:
        pass

    async def await_one() -> None:
        assert_type(await atyped(a=1), uuid.UUID)

    assert_type(typed(a=1), float)
    never(await_one)
    never(lambda: assert_type(typed.execute_on_commit(a=1), Invocation[float]))
    never(lambda: typed.execute_on_commit(a="1"))  # type: ignore[arg-type]
    never(lambda: typed.execute_on_commit(a=1, c=2))  # type: ignore[call-arg]
    never(lambda: typed.using(delay=3).serialize(a="1"))  # type: ignore[arg-type]
    assert isinstance(typed, LambdaTaskWrapper)
    assert (typed.__name__, typed.name) == ("typed", "tests.test_small_things.typed")
