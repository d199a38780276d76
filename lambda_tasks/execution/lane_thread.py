"""The thread of a lane, on which Django's async ORM makes all calls of the lane's task."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from ..context import TaskContext, current_run
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..pools import returning_connections
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
        """Accept the calls of this run in the body; submit() refuses those of any other run.

        Code that a task left running would otherwise use the transaction of the next task, or
        none.
        """
        self._served_run = run
        try:
            yield
        finally:
            self._served_run = None

    def call_first(self, first: Callable[[], None]) -> None:
        """Run `first` on the thread before the next call.

        If it raises, that call raises the error, and the call after it runs `first` again.
        """
        self._first = first
        self._has_no_call = True

    @property
    def has_begun(self) -> bool:
        """Whether the function of call_first() was called and has not raised."""
        return self._first is None and not self._has_no_call

    def cancel_begin(self) -> bool:
        """Forget the function of call_first(); return whether no call has come since."""
        self._first = None
        return self._has_no_call

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """See Executor. Raises RuntimeError if the caller's run has ended."""
        # submit() runs in the context of the calling code, so this is the run that the code belongs
        # to, even if that run has ended. The lane's own calls belong to none.
        run = current_run.get()
        if run is not None and run is not self._served_run:
            raise RuntimeError(
                f"{run.task_name} ({run.invocation_id}) has ended, and with it its transaction. "
                "Code that it left running can't use the database. Await that code within the "
                "task, for example in an asyncio.TaskGroup."
            )
        self._has_no_call = False
        return super().submit(self._call_after_first, fn, args, kwargs)

    async def call_last(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Make the last call of a run, and return its connections to their pools. See call()."""
        return await self.call(returning_connections(function), *args, limit_s=limit_s)

    def _call_after_first(
        self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        if self._first is not None:
            self._first()
            self._first = None
        return function(*args, **kwargs)


class AnyThread:
    """The thread of the surrounding thread-sensitive context: a LaneThread's stand-in in tests.

    asgiref chooses the thread, and others may use it too.
    """

    is_busy = False
    """Always False: asgiref does not show it."""

    def serving(self, run: TaskContext) -> AbstractContextManager[None]:
        """Return a context that accepts all calls."""
        return nullcontext()

    def cancel_begin(self) -> bool:
        """Return False: a run begins here before its task is called."""
        return False

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
