"""Writes the ends of attempts that had nothing to commit: those that come meanwhile, at once."""

import asyncio
from collections.abc import Collection, Sequence
from uuid import UUID

from ..core.lifecycle import End
from ..interrupts import ask
from ..ports import Claims
from . import connections

Waiting = tuple[End, "asyncio.Future[bool]"]


class FinishBatcher:
    """One for an executor, on its loop."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._waiting: list[Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    async def finish(self, end: End) -> bool:
        """Write what an attempt ended in; False where the claim no longer holds.

        Raises what the database raises.
        """
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((end, written))
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all())
        return await written

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                await self._write(waiting)
        finally:
            self._writer = None

    async def _write(self, waiting: Sequence[Waiting]) -> None:
        try:
            held = await ask(self._write_ends, [end for end, _ in waiting])
        except Exception as error:
            if len(waiting) > 1 and not isinstance(error, connections.OUTAGES):
                # What the database refuses of one must not take its neighbours along.
                for each in waiting:
                    await self._write([each])
                return
            for _, written in waiting:
                if not written.done():
                    written.set_exception(error)
            return
        for end, written in waiting:
            if not written.done():
                written.set_result(end.claim.invocation_id in held)

    def _write_ends(self, ends: Sequence[End]) -> Collection[UUID]:
        connections.refresh()
        return self._claims.finish_many(ends)
