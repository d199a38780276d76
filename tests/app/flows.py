"""The steps of workflows: each fails as often as it is told, and says what it was given."""

from collections import Counter

from lambda_tasks import Retry, TaskContext, lambda_task
from lambda_tasks.workflows import Results
from tests.workflow_model import RETRIES, result_of

ran: Counter[str] = Counter()
"""How often each step has run in this process."""


class Flop(Exception):
    """A step fails for good."""


@lambda_task(max_retries=RETRIES)
async def play(*, name: str, failures: int = 0, first: int = 0) -> int:
    return _play(name, failures, first, [])


@lambda_task(max_retries=RETRIES)
async def gather(*, name: str, failures: int = 0, first: int = 0, many: Results[int]) -> int:
    return _play(name, failures, first, [each async for each in many])


def _play(name: str, failures: int, first: int, many: list[int]) -> int:
    ran[name] += 1
    if ran[name] <= failures:
        raise Retry(name, delay=0)
    return result_of(name, first, many)


@lambda_task
def double(*, number: int) -> int:
    return 2 * number


@lambda_task
def fail(*, number: int = 0) -> int:
    raise Flop(number)


@lambda_task(takes_context=True)
def fail_until(context: TaskContext, *, name: str, times: int) -> str:
    """Fail in the first runs in this process, without a retry."""
    ran[name] += 1
    if ran[name] <= times:
        raise Flop(name)
    return name


@lambda_task
def add_up(*, numbers: Results[int], plus: int = 0) -> int:
    return sum(numbers) + plus


@lambda_task
def as_list(*, numbers: Results[int]) -> list[int]:
    return list(numbers)


@lambda_task
def note(*, name: str) -> str:
    ran[name] += 1
    return name
