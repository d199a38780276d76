"""The web side: customers who place orders through the real views, a few of them in vain."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections
from django.test import AsyncClient, Client
from shop.tasks import BOUNCING

ROLLED_BACK_EVERY = 10
BOUNCES_EVERY = 12
AT_ONCE = 8


@dataclass
class Sales:
    """What the views answered."""

    invocations: list[str] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    bouncing: int = 0


def sell(count: int, sales: Sales) -> Iterator[int]:
    """Place so many orders, half of them through the async view; yields how many are placed."""
    client = Client()
    half = count // 2
    for number in range(half):
        response = client.post("/orders/", _form(number, sales))
        _note(response.status_code, response.json(), sales)
        yield number + 1
    for start in range(half, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        asyncio.run(_sell_at_once(numbers, sales))
        yield numbers[-1] + 1


async def _sell_at_once(numbers: range, sales: Sales) -> None:
    await asyncio.gather(*(_sell_async(number, sales) for number in numbers))


async def _sell_async(number: int, sales: Sales) -> None:
    # As an ASGI server does: each request has a thread, and so a connection, of its own.
    async with ThreadSensitiveContext():
        response = await AsyncClient().post("/async/orders/", _form(number, sales))
        _note(response.status_code, response.json(), sales)
        await sync_to_async(connections.close_all)()


def _form(number: int, sales: Sales) -> dict[str, str]:
    form = {"reference": f"D-{number:05}", "email": f"reader{number}@books.example"}
    if number % ROLLED_BACK_EVERY == 3:
        return form | {"out_of_stock": "1"}
    if number % BOUNCES_EVERY == 5:
        sales.bouncing += 1
        return form | {"email": f"reader{number}@{BOUNCING}"}
    return form


def _note(status: int, answer: dict[str, list[str]], sales: Sales) -> None:
    if status == 201:
        sales.invocations.extend(answer["invocations"])
    elif status == 409:
        sales.rolled_back.append(str(answer["order"]))
    else:
        raise RuntimeError(f"The view answered {status}: {answer}")
