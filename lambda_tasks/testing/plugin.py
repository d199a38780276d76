"""The plugin for pytest, which loads it by its entry point: the fixture `captured_tasks`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from . import CapturedTasks


@pytest.fixture
def captured_tasks() -> "Iterator[CapturedTasks]":
    """Capture the test's calls instead of sending them. See testing.capture_tasks()."""
    from .capturing import capture_tasks

    with capture_tasks() as captured:
        yield captured
