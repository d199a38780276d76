"""Writes what several runs have to tell their records: what comes while one statement is under way
goes with the next one."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar
from uuid import UUID

from ..database_calls import call_database
from . import connections

Item = TypeVar("Item")
Result = TypeVar("Result")

LONGEST_PAUSE_S: Final = 0.005
"""Between two statements where runs end one after the other. A pause as long as the statement took
gathers more for the next one: a third of the statements, and a tenth less time in all."""


class WriteBatcher(Generic[Item, Result]):
    """One kind of write of one executor, on its loop.

    `write_many` returns what has come of the items, by invocation id; it is called on a thread.
    """

    def __init__(self, write_many: Callable[[Sequence[Item]], Mapping[UUID, Result]]) -> None:
        self._write_many = write_many
        self._waiting: list[tuple[UUID, Item, asyncio.Future[Result | None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, invocation_id: UUID, item: Item) -> Result | None:
        """Write it; None where the claim no longer holds. Raises what the database raises."""
        return await self.put(invocation_id, item)

    def put(
        self, invocation_id: UUID, item: Item, *, context: contextvars.Context | None = None
    ) -> "asyncio.Future[Result | None]":
        """Write it soon; see write() for what the future holds then.

        A lane gives the `context` from outside of it: in its own the database would be asked on
        the lane's thread, and so in the transaction of its task.
        """
        written: asyncio.Future[Result | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((invocation_id, item, written))
        if self._writer is None:
            writing = self._write_all()
            self._writer = asyncio.get_running_loop().create_task(writing, context=context)
        return written

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                began_at = time.monotonic()
                await self._write(waiting)
                if self._waiting:
                    await asyncio.sleep(min(time.monotonic() - began_at, LONGEST_PAUSE_S))
        finally:
            self._writer = None

    async def _write(
        self, waiting: "Sequence[tuple[UUID, Item, asyncio.Future[Result | None]]]"
    ) -> None:
        try:
            results = await call_database(self._write_on_a_thread, [item for _, item, _ in waiting])
        except Exception as error:
            if len(waiting) > 1 and not isinstance(error, connections.OUTAGES):
                # What the database refuses of one must not take its neighbours along.
                for each in waiting:
                    await self._write([each])
                return
            for _, _, written in waiting:
                if not written.done():
                    written.set_exception(error)
            return
        for id, _, written in waiting:
            if not written.done():
                written.set_result(results.get(id))

    def _write_on_a_thread(self, items: Sequence[Item]) -> Mapping[UUID, Result]:
        connections.refresh()
        return self._write_many(items)
