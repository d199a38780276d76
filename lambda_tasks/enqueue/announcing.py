"""Announces calls to hooks.enqueued, whose functions may add headers to them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async

from .. import hooks
from ..conf import current
from ..context import run_of_this_code
from ..core.arguments import copy_json
from ..core.message import Outgoing, check_headers
from ..hooks.calling import Reporting, acall_receiver, call_receiver
from ..hooks.hook import Receiver

EnqueuedReceiver = Receiver[hooks.Enqueued]

_under_way: ContextVar[tuple[EnqueuedReceiver, ...]] = ContextVar("under_way", default=())
"""The functions that are being called here. One that enqueues is not called for its own calls."""


def announce(messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
    """Call hooks.enqueued on this thread, and return the messages with the headers of all hooks."""
    for receiver in hooks.enqueued.receivers:
        messages = _announce_all(receiver, messages)
    return messages


async def aannounce(messages: Sequence[Outgoing]) -> Sequence[Outgoing]:
    """See announce(). A sync function is called on the thread of the caller's connection."""
    for receiver in hooks.enqueued.receivers:
        if iscoroutinefunction(receiver):
            messages = [await _aannounce(receiver, each, len(messages)) for each in messages]
        else:
            messages = await sync_to_async(_announce_all)(receiver, messages)
    return messages


def _announce_all(receiver: EnqueuedReceiver, messages: Sequence[Outgoing]) -> list[Outgoing]:
    return [_announce(receiver, outgoing, len(messages)) for outgoing in messages]


def _announce(receiver: EnqueuedReceiver, outgoing: Outgoing, n_together: int) -> Outgoing:
    if receiver in _under_way.get():
        return outgoing
    event = _event_of(outgoing, n_together)
    with Reporting(hooks.enqueued, receiver, event), _calling(receiver):
        call_receiver(receiver, event)
        return _with_headers(outgoing, event.headers)
    return outgoing


async def _aannounce(receiver: EnqueuedReceiver, outgoing: Outgoing, n_together: int) -> Outgoing:
    if receiver in _under_way.get():
        return outgoing
    event = _event_of(outgoing, n_together)
    with Reporting(hooks.enqueued, receiver, event), _calling(receiver):
        await acall_receiver(receiver, event)
        return _with_headers(outgoing, event.headers)
    return outgoing


@contextmanager
def _calling(receiver: EnqueuedReceiver) -> Iterator[None]:
    token = _under_way.set((*_under_way.get(), receiver))
    try:
        yield
    finally:
        _under_way.reset(token)


def _event_of(outgoing: Outgoing, n_together: int) -> hooks.Enqueued:
    return hooks.Enqueued(
        task_name=outgoing.message.task_name,
        invocation_id=outgoing.message.invocation_id,
        queue=outgoing.queue,
        headers=copy_json(outgoing.message.headers),
        parent=run_of_this_code(),
        n_together=n_together,
    )


def _with_headers(outgoing: Outgoing, headers: dict[str, Any]) -> Outgoing:
    """Return a message with these headers.

    Raises TypeError or ValueError for invalid headers, and MessageTooLarge where they make a direct
    message too large for its queue.
    """
    if headers == outgoing.message.headers:
        return outgoing
    checked = check_headers(headers, what=f"the headers of {outgoing.message.task_name}")
    message = replace(outgoing.message, headers=checked)
    body, settings = message.encode(), current()
    is_signed = bool(settings.signing_keys)
    settings.queue(outgoing.queue).check_message(message, body, is_signed=is_signed)
    return replace(outgoing, message=message, body=body)
