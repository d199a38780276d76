"""The thread of a lane, on which Django's async ORM makes all calls of the lane's task."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from ..context import TaskContext, current_run
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..pools import returning_connections
from . import connections
from .interruptible_thread import InterruptibleThread

T = TypeVar("T")


class LaneThread(InterruptibleThread):
    """The single thread of a lane, started by its first call.

    The first call of a task opens the task's transaction on the way. A task that never uses the
    database makes no call here, so it needs no transaction and saves the two hops for it.
    """

    def __init__(self) -> None:
        super().__init__("lambda_tasks-lane")
        self._first: Callable[[], None] | None = None
        self._has_no_call = False
        self._served_run: TaskContext | None = None

    @contextmanager
    def serving(self, run: TaskContext) -> Iterator[None]:
        """Accept the calls of this run in the body, and refuse those of any other run.

        Code that a task left running would otherwise use the transaction of the next task, or
        none.
        """
        self._served_run = run
        try:
            yield
        finally:
            self._served_run = None

    def call_first(self, first: Callable[[], None]) -> None:
        """Run `first` on the thread before the next call of the run.

        If it raises, that call raises the error, and the call after it runs `first` again.
        """
        self._first = first
        self._has_no_call = True

    def cancel_begin(self) -> bool:
        """Forget the function of call_first(), if no call has come since; return whether so."""
        is_unbegun = self._first is not None and self._has_no_call
        if is_unbegun:
            self._first = None
        return is_unbegun

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """See Executor. Raises RuntimeError if the caller's run has ended."""
        # submit() runs in the context of the calling code, so this is the run that the code belongs
        # to, even if that run has ended.
        run = current_run.get()
        self._refuse_ended(run)
        self._has_no_call = False
        return self._put(partial(self._call_of_run, run, partial(fn, *args, **kwargs)))

    async def call_last(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Make the last call of a run, and return its connections to their pools. See call()."""
        return await self.call(returning_connections(function), *args, limit_s=limit_s)

    def after_begin(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function on this thread, after that of call_first()."""
        if self._first is not None:
            self._first()
            self._first = None
        return function(*args)

    def after_failure(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function on this thread, with usable connections if the run has not begun."""
        if self._first is not None:
            self._first = None
            connections.refresh()
        return function(*args)

    def _call_of_run(self, run: TaskContext | None, function: Callable[[], T]) -> T:
        # Once more, as the run may have ended while the call waited for the thread. Its
        # transaction is over then, or never began.
        self._refuse_ended(run)
        return self.after_begin(function)

    def _refuse_ended(self, run: TaskContext | None) -> None:
        if run is not None and run is not self._served_run:
            raise RuntimeError(
                f"{run.task_name} ({run.invocation_id}) has ended, and with it its transaction. "
                "Code that it left running can't use the database. Await that code within the "
                "task, for example in an asyncio.TaskGroup."
            )


class AnyThread:
    """The thread of the surrounding thread-sensitive context: a LaneThread's stand-in in tests.

    asgiref chooses the thread, and others may use it too.
    """

    is_busy = False
    """Always False: asgiref does not show it."""
    is_stuck = False
    """Always False, for the same reason."""

    def serving(self, run: TaskContext) -> AbstractContextManager[None]:
        """Return a context that accepts all calls."""
        return nullcontext()

    def cancel_begin(self) -> bool:
        """Return False: a run begins here before its task is called."""
        return False

    def after_begin(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function: the run has begun."""
        return function(*args)

    after_failure = after_begin

    async def call(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Call a function on the thread, without a limit."""
        return await sync_to_async(function)(*args)

    async def call_last(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Call a function on the thread, and keep its connections: the run shares them."""
        return await self.call(function, *args, limit_s=limit_s)

    def interrupt(self, *, hang_up: bool = True) -> None:
        """Do nothing: the thread may be working for others."""
