"""The mixin for Django's TestCase, and for any unittest TestCase that may use the database."""

import unittest

from .assertions import assert_enqueued
from .capturing import CapturedTasks, capture_tasks
from .events import CapturedTask


class CaptureTasksMixin(unittest.TestCase):
    """A test case that captures its calls of tasks, instead of sending them."""

    tasks: CapturedTasks
    """The calls that the test has enqueued so far."""

    def setUp(self) -> None:
        """Start to capture calls."""
        super().setUp()
        self.tasks = self.enterContext(capture_tasks())

    def assertEnqueued(self, task: object, /, *args: object, **kwargs: object) -> CapturedTask:  # noqa: N802
        """See assert_enqueued()."""
        return assert_enqueued(task, *args, **kwargs)
