"""For Django's TestCase, and any other unittest one that may use the database."""

import unittest

from .assertions import assert_enqueued
from .capturing import CapturedTasks, capture_tasks
from .events import CapturedTask


class CaptureTasksMixin(unittest.TestCase):
    """`self.tasks` is what the test has enqueued; nothing leaves."""

    tasks: CapturedTasks

    def setUp(self) -> None:
        """Begin to capture."""
        super().setUp()
        self.tasks = self.enterContext(capture_tasks())

    def assertEnqueued(self, task: object, /, *args: object, **kwargs: object) -> CapturedTask:  # noqa: N802
        """See assert_enqueued()."""
        return assert_enqueued(task, *args, **kwargs)
