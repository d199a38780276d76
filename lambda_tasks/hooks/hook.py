"""A hook: the functions that a project has connected to one kind of event."""

import inspect
from collections.abc import Callable
from typing import Generic, TypeVar

E = TypeVar("E")
"""The type of a hook's events."""

R = TypeVar("R")

Receiver = Callable[[E], object]
"""A function that is called with an event; if it returns an awaitable, that is awaited."""


class Hook(Generic[E]):
    """A list of functions that are called with each event of one kind, in their order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.receivers: tuple[Receiver[E], ...] = ()
        """The connected functions. The tuple is replaced, never changed."""

    def __bool__(self) -> bool:
        """Return whether any function is connected. The engine asks this first."""
        return bool(self.receivers)

    def __repr__(self) -> str:
        return f"<Hook {self.name} [{len(self.receivers)} connected]>"

    def connect(self, receiver: Callable[[E], R]) -> Callable[[E], R]:
        """Connect a function and return it, so that this works as a decorator.

        Connecting it again changes nothing. Raises TypeError unless it can be called with one
        positional argument.
        """
        _check(self.name, receiver)
        if receiver not in self.receivers:
            self.receivers = (*self.receivers, receiver)
        return receiver

    def disconnect(self, receiver: Receiver[E]) -> bool:
        """Disconnect a function; return whether it was connected."""
        before = self.receivers
        self.receivers = tuple(each for each in before if each != receiver)
        return len(self.receivers) < len(before)


def _check(hook: str, receiver: object) -> None:
    if not callable(receiver):
        raise TypeError(f"hooks.{hook}.connect() needs a function, and got {receiver!r}.")
    try:
        inspect.signature(receiver).bind(object())
    except TypeError:
        raise TypeError(
            f"{name_of(receiver)} can't be connected to hooks.{hook}: hooks are called with one "
            "positional argument, the event."
        ) from None
    except ValueError:
        return  # a built-in function without a signature
    if inspect.isgeneratorfunction(receiver) or inspect.isasyncgenfunction(receiver):
        raise TypeError(
            f"{name_of(receiver)} can't be connected to hooks.{hook}: it is a generator, so a call "
            "would run none of its code."
        )


def name_of(receiver: object) -> str:
    """Return the dotted name of a function, for messages."""
    name = getattr(receiver, "__qualname__", None)
    return repr(receiver) if name is None else f"{getattr(receiver, '__module__', '?')}.{name}"
