"""What the demo runs in: a temporary database and an SQS on loopback, gone afterwards."""

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from lambda_tasks.local import LocalSqs

VISIBILITY_TIMEOUT_S = 30
MAX_RECEIVE_COUNT = 5


class World:
    """Tells the settings, through the environment, where database and queue are."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bookshop-"))
        sqs = self._stack.enter_context(LocalSqs())
        os.environ["BOOKSHOP_DATABASE"] = str(Path(directory) / "shop.sqlite3")
        os.environ["BOOKSHOP_QUEUE_URL"] = sqs.create_queue(
            "bookshop",
            visibility_timeout_s=VISIBILITY_TIMEOUT_S,
            max_receive_count=MAX_RECEIVE_COUNT,
        )
        # It answers only those who have its credentials.
        os.environ["BOOKSHOP_AWS"] = json.dumps(sqs.client_options)
        # Each task logs a line at INFO; the table counts them.
        os.environ.setdefault("BOOKSHOP_LOG_LEVEL", "ERROR")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()
