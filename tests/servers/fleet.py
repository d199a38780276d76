"""Functions that one queue feeds, as Lambda scales them: each takes a batch of its own."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Self, TypeVar

from lambda_tasks.local import EventSourceMapping
from tests.servers.family import frozen
from tests.servers.lambda_runtime import (
    FunctionError,
    FunctionTimedOut,
    LambdaProcess,
    RuntimeExited,
)
from tests.servers.members import Members

T = TypeVar("T")

PING_S: Final = 60.0


class Fleet:
    """Use it as a context manager. `kill_one()` ends a function's sandbox, whatever it does; the
    next batch makes it start again."""

    def __init__(
        self,
        queue_url: str,
        functions: Sequence[LambdaProcess],
        *,
        client_options: dict[str, Any],
        veterans: int = 0,
    ) -> None:
        self.kills = 0
        self.n_ended = 0
        """How often an invocation has ended with its sandbox."""
        self._members = Members(functions, veterans=veterans)
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
        self._stop_feeding()
        for function in self._functions:
            function.stop()

    def outputs(self) -> list[str]:
        """What each function has printed, in all its sandboxes."""
        return [function.output for function in self._functions]

    def unresponsive(self) -> list[str]:
        """What each function printed that does not answer a ping. It ends the feeding."""
        self._stop_feeding()
        return [each.output for each in self._functions if not _answers(each)]

    @property
    def pids(self) -> list[int]:
        """The functions' processes, without what these have started."""
        return [_pid(function) for function in self._functions]

    def kill_one(self) -> None:
        """The whole sandbox, as when Lambda's host is gone."""
        with self._members.one(may_die=True) as function:
            _when_running(function, LambdaProcess.kill_sandbox)
        self.kills += 1

    @contextmanager
    def one_frozen(self, *, may_die: bool = False) -> Iterator[None]:
        """In the body a sandbox stands still; Lambda ends it where that outlasts its timeout.

        `may_die` spares the veterans.
        """
        with self._members.one(may_die=may_die) as function, frozen(_pid(function)):
            yield

    def _stop_feeding(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _feed(self, function: LambdaProcess) -> None:
        def invoke(event: object) -> object:
            try:
                return function.invoke(event)
            except (RuntimeExited, FunctionTimedOut):
                self.n_ended += 1
                function.start()
                raise

        with EventSourceMapping(
            self._queue_url, invoke, client_options=self._client_options
        ) as mapping:
            mapping.run(self._stop.is_set)


def _when_running(function: LambdaProcess, do: Callable[[LambdaProcess], T]) -> T:
    """Once it runs: it may have been killed, and be about to start again."""
    while True:
        with suppress(RuntimeError):
            return do(function)
        time.sleep(0.01)


def _pid(function: LambdaProcess) -> int:
    return _when_running(function, lambda running: running.pid)


def _answers(function: LambdaProcess) -> bool:
    try:
        function.invoke({"lambda_tasks": "ping"}, timeout_s=PING_S)
    except FunctionTimedOut:
        return False
    except (FunctionError, RuntimeExited):
        pass  # it takes no pings; or it was killed, and its next start would have been this one
    return True
