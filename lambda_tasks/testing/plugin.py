"""The plugin for pytest, which loads it by its entry point: the fixture `captured_tasks`."""

from collections.abc import Iterator
from contextlib import nullcontext
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from . import CapturedTasks


@pytest.fixture
def captured_tasks(request: pytest.FixtureRequest) -> "Iterator[CapturedTasks]":
    """Capture the test's calls instead of sending them. See testing.capture_tasks().

    An async test runs in the transaction that `django_db` has opened for it.
    """
    from .capturing import capture_tasks
    from .connections import transactions_for_coroutines

    is_async = iscoroutinefunction(getattr(request, "function", None))
    with transactions_for_coroutines() if is_async else nullcontext(), capture_tasks() as captured:
        yield captured
