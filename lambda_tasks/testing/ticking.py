"""The tick of a test, at any time."""

from datetime import datetime

from asgiref.sync import async_to_sync

from .. import runtime
from ..twins import sync_form


@sync_form("atick()")
def tick(now: datetime | None = None) -> int:
    """Enqueue what schedules have due, as if it were `now`; return how many runs.

    A schedule starts with its first tick. So tick once at the start of a time span, and then at
    each moment that matters: what became due in between counts as missed.
    """
    return async_to_sync(atick)(now)


async def atick(now: datetime | None = None) -> int:
    """See tick()."""
    return (await runtime.current().scheduler.tick(now)).scheduled
