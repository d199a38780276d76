"""What a call needs before it may begin, by the options of its task and the rate of its queue."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from django.utils.crypto import salted_hmac

from ..core.limits import Needs, Pace, Places, Rate, key_of
from ..core.message import Message
from ..ports import Lock, Task

NeedsOf = Callable[[Message], Needs]

SINGLETON: Final = "singleton_lock"
"""The kind of key that Redis has for a singleton, too."""


def needs_of(
    task: Task, message: Message, queue: str, queue_rate: Rate | None, lock: Lock
) -> NeedsOf | None:
    """Return a function that tells what a call of a task needs; None for a task without limits.

    A singleton asks for its lock when it runs if it is a direct message, if it does not wait, or if
    Redis has its lock.
    """
    options = task.options
    waits_for_place = (
        options.singleton and options.retry_singleton and message.durable and not lock.is_elsewhere
    )
    if not (options.waits_in_row or queue_rate or waits_for_place):
        return None
    return partial(_needs, task, queue, queue_rate, waits_for_place)


def singleton_key(task: Task, message: Message) -> str:
    """Return the key of a singleton's lock or place."""
    return _key(SINGLETON, task, message, task.options.singleton_by)


def _needs(
    task: Task, queue: str, queue_rate: Rate | None, is_singleton: bool, message: Message
) -> Needs:
    options = task.options
    places = None
    if options.limit is not None:
        places = Places(_key("limit", task, message, options.limit_by), options.limit)
    elif is_singleton:
        places = Places(singleton_key(task, message), 1)
    paces = []
    if options.rate is not None:
        key = _key("rate", task, message, options.rate_by)
        paces.append(Pace(key, Rate.parse(options.rate)))
    if queue_rate is not None:
        paces.append(Pace(f"lambda_tasks.queue_rate.{queue}", queue_rate))
    return Needs(places, tuple(paces))


def _key(kind: str, task: Task, message: Message, names: Sequence[str]) -> str:
    return key_of(kind, task.name, {name: _text_of(task, message, name) for name in names})


def _text_of(task: Task, message: Message, name: str) -> str:
    """Return an argument as text for a key; a secret one as a keyed hash."""
    text = repr(task.argument_of(message, name))
    if name not in message.secret and name not in task.secret_names:
        return text
    return salted_hmac("lambda_tasks.lock", text, algorithm="sha256").hexdigest()
