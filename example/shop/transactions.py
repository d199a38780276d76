"""A transaction around async ORM code."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asgiref.sync import sync_to_async
from django.db import transaction


@asynccontextmanager
async def async_atomic() -> AsyncIterator[None]:
    """Django opens transactions on a thread; one request's hops all land on the same one."""
    block = transaction.atomic()
    await sync_to_async(block.__enter__)()
    try:
        yield
    except BaseException:
        await sync_to_async(block.__exit__)(*sys.exc_info())
        raise
    await sync_to_async(block.__exit__)(None, None, None)
