"""Functions that one queue feeds, as Lambda scales them: each takes a batch of its own."""

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

from lambda_tasks.local import EventSourceMapping
from tests.servers.lambda_runtime import FunctionTimedOut, LambdaProcess, RuntimeExited


class Fleet:
    """Use it as a context manager. `kill_one()` ends a function's sandbox, whatever it does; the
    next batch makes it start again."""

    def __init__(
        self,
        queue_url: str,
        functions: Sequence[LambdaProcess],
        *,
        client_options: dict[str, Any],
    ) -> None:
        self.kills = 0
        self._queue_url = queue_url
        self._functions = functions
        self._client_options = client_options
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for function in self._functions:
            function.start()
            thread = threading.Thread(target=self._feed, args=(function,))
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for function in self._functions:
            function.stop()

    def kill_one(self) -> None:
        """The whole sandbox, as when Lambda's host is gone."""
        function = random.choice(self._functions)
        while not function.is_running:  # it has been killed before, and is being started again
            time.sleep(0.01)
        function.kill_sandbox()
        self.kills += 1

    def _feed(self, function: LambdaProcess) -> None:
        def invoke(event: object) -> object:
            try:
                return function.invoke(event)
            except (RuntimeExited, FunctionTimedOut):
                function.start()
                raise

        with EventSourceMapping(
            self._queue_url, invoke, client_options=self._client_options
        ) as mapping:
            mapping.run(self._stop.is_set)
