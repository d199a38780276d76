"""The thread of a lane, on which all lands that its task lets Django's async ORM do."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from ..context import TaskContext, current_run
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S
from ..pools import returning_connections
from .own_thread import OwnThread

T = TypeVar("T")


class LaneThread(OwnThread):
    """One thread, started at its first use.

    A task that only awaits other things never comes here, so it needs no transaction, and none of
    the two hops that a transaction takes: that is begun with the first call, on the way.
    """

    def __init__(self) -> None:
        super().__init__("lambda_tasks-lane")
        self._first: Callable[[], None] | None = None
        self._is_unused = False
        self._served: TaskContext | None = None

    @contextmanager
    def serving(self, run: TaskContext) -> Iterator[None]:
        """In the body calls of this run are let through. Those of a run that has ended, by what its
        task has left running, are refused: they would land in the transaction of another, or in
        none."""
        self._served = run
        try:
            yield
        finally:
            self._served = None

    def begins_with(self, first: Callable[[], None]) -> None:
        """Call this before the next call. Where it raises, that call does, and so do those that
        follow until it doesn't."""
        self._first = first
        self._is_unused = True

    @property
    def has_begun(self) -> bool:
        """Whether what begins_with() was given has been called, and has not raised."""
        return self._first is None and not self._is_unused

    def cancel_begin(self) -> bool:
        """Forget what begins_with() was given, which may have raised; whether nobody called."""
        self._first = None
        return self._is_unused

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """See Executor. Raises RuntimeError for a run that has ended."""
        run = current_run.get()
        if run is not None and run is not self._served:
            raise RuntimeError(
                f"{run.task_name} ({run.invocation_id}) has ended, and with it its transaction; "
                "what it has left running can't use the database. Await it within the task, in an "
                "asyncio.TaskGroup, say."
            )
        self._is_unused = False
        return super().submit(self._after_the_first, fn, args, kwargs)

    async def call_last(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Make the call that ends a run: what it has of connection pools goes back. See call()."""
        return await self.call(returning_connections(function), *args, limit_s=limit_s)

    def _after_the_first(
        self, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        if self._first is not None:
            self._first()
            self._first = None
        return function(*args, **kwargs)


class AnyThread:
    """The thread of the thread-sensitive context that surrounds a call, which asgiref knows."""

    is_busy = False
    """There is no telling."""

    def serving(self, run: TaskContext) -> AbstractContextManager[None]:
        """It serves everybody."""
        return nullcontext()

    def cancel_begin(self) -> bool:
        """There is no telling."""
        return False

    async def call(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Call a function there; nobody interrupts it."""
        return await sync_to_async(function)(*args)

    async def call_last(
        self, function: Callable[..., T], *args: Any, limit_s: float = LIBRARY_STATEMENT_LIMIT_S
    ) -> T:
        """Call a function there. Its connection is not the run's own, and so it stays."""
        return await self.call(function, *args, limit_s=limit_s)

    def interrupt(self, *, hang_up: bool = True) -> None:
        """Nothing: it may be anybody's."""
