"""Asks the database something for the library itself, from a coroutine."""

from collections.abc import Callable
from typing import Any, TypeVar

from asgiref.sync import sync_to_async

from .interrupts import OWN_S, within
from .pools import borrowed

T = TypeVar("T")


async def ask(function: Callable[..., T], *args: Any, limit_s: float = OWN_S, **kwargs: Any) -> T:
    """Call a function on this context's thread for the database, and interrupt it after so many
    seconds. What it takes from a connection pool goes back with its end."""

    def ask_within() -> T:
        with borrowed(), within(limit_s):
            return function(*args, **kwargs)

    return await sync_to_async(ask_within)()
