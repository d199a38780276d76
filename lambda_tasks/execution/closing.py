"""Writes the ends of attempts that had nothing to commit: those that come meanwhile, at once."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from asgiref.sync import sync_to_async

from ..core.lifecycle import Claim, Outcome
from ..ports import Records
from . import connections


@dataclass(frozen=True, slots=True, eq=False)
class _End:
    claim: Claim
    outcome: Outcome
    ran_for: timedelta | None
    written: "asyncio.Future[bool]"


class Closing:
    """One for an executor, on its loop."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._waiting: list[_End] = []
        self._writer: asyncio.Task[None] | None = None

    async def close(self, claim: Claim, outcome: Outcome, ran_for: timedelta | None) -> bool:
        """Write what an attempt ended in; False where the claim no longer holds.

        Raises what the database raises.
        """
        end = _End(claim, outcome, ran_for, asyncio.get_running_loop().create_future())
        self._waiting.append(end)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_all())
        return await end.written

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                ends, self._waiting = self._waiting, []
                await self._write(ends)
        finally:
            self._writer = None

    async def _write(self, ends: Sequence[_End]) -> None:
        try:
            held = await sync_to_async(self._close)(ends)
        except Exception as error:
            if len(ends) > 1 and not isinstance(error, connections.OUTAGES):
                # What the database refuses of one must not take its neighbours along.
                for end in ends:
                    await self._write([end])
                return
            for end in ends:
                if not end.written.done():
                    end.written.set_exception(error)
            return
        for end in ends:
            if not end.written.done():
                end.written.set_result(end.claim.invocation_id in held)

    def _close(self, ends: Sequence[_End]) -> Collection[UUID]:
        """Twice, if need be: what a claim has held until then, it holds once."""
        rows = [(end.claim, end.outcome, end.ran_for) for end in ends]
        connections.refresh()
        try:
            return self._records.close_many(rows)
        except connections.OUTAGES:
            connections.refresh()
            return self._records.close_many(rows)
