"""Has the steps sent that an end has released, where its writer does not send them itself.

Ends are written by cancels, too, and by whoever finds a run that is lost or expired: in any process
that uses the records. The runtime, which is above, says who sends there.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from ..ports import Released

Send = Callable[[Sequence[Released]], None]
"""A function that sends released steps after the commit of the current transaction."""


class _Process:
    send: ClassVar[Send | None] = None


def send_by(send: Send) -> None:
    """Let a function send what ends in this process release."""
    _Process.send = send


def send_released(released: Sequence[Released]) -> None:
    """Have released steps sent after the commit; where nobody does, the relay sends them."""
    if released and _Process.send is not None:
        _Process.send(released)
