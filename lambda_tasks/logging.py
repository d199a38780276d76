"""Log lines that say which run of which task they belong to.

`task_logger` puts the invocation id before each message. The filter puts `invocation_id`,
`task_name` and `attempt` on every record of any logger, for a formatter of your own.
"""

import logging
from collections.abc import MutableMapping
from typing import Any

from .context import current_run


class _TaskLogger(logging.LoggerAdapter[logging.Logger]):
    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        run = current_run.get()
        return (msg if run is None else f"[{run.invocation_id}] {msg}"), kwargs


task_logger = _TaskLogger(logging.getLogger("lambda_tasks.task"))
"""For a task's own lines: `task_logger.info("sent to %s", address)`."""


class TaskContextFilter(logging.Filter):
    """Put it on a handler in LOGGING; outside of a task the three attributes are empty."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mark the record; none is held back."""
        run = current_run.get()
        record.invocation_id = str(run.invocation_id) if run else ""
        record.task_name = run.task_name if run else ""
        record.attempt = run.attempt if run else ""
        return True
