"""The plugin for pytest, which finds it by itself: the fixture `captured_tasks`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from . import CapturedTasks


@pytest.fixture
def captured_tasks() -> "Iterator[CapturedTasks]":
    """What the test has enqueued; nothing leaves. See lambda_tasks.testing.capture_tasks()."""
    from .capturing import capture_tasks

    with capture_tasks() as captured:
        yield captured
