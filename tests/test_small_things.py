"""What every user meets: log lines, the built-in task, the types of the call forms."""

import logging
import uuid
from collections.abc import Callable, Iterator
from typing import Any, assert_type

import pytest

from lambda_tasks import Invocation, LambdaTaskWrapper, lambda_task, task_logger
from lambda_tasks.logging import TaskContextFilter
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
