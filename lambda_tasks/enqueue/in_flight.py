"""How many requests one queue takes at a time: found out, not set.

More requests in flight carry more messages until something is saturated, the queue, the network or
this process; from there on they only wait longer. So the limit grows while answers take about as
long as the quickest do, and shrinks when they take several times as long (the idea of TCP Vegas).
"""

from typing import Final

from ..core.batching import MAX_IN_FLIGHT

MIN_IN_FLIGHT: Final = 16

GROWS_BELOW: Final = 2.0
SHRINKS_ABOVE: Final = 4.0
"""Times the quickest answer."""

SLOW_SHARE: Final = 0.1
"""How much of a slower answer goes into what counts as quick, where there are no fewer requests to
go back to: a queue may move away."""


class InFlightLimit:
    """The limit of one queue. `value` is the number of requests that may be in flight."""

    def __init__(self) -> None:
        self.value: int = MIN_IN_FLIGHT
        self._quick_s = 0.0

    def answered(self, latency_s: float, *, was_full: bool) -> None:
        """A request was answered; `was_full` where the limit held others back when it left."""
        if not self._quick_s or latency_s < self._quick_s:
            self._quick_s = latency_s
        elif self.value == MIN_IN_FLIGHT:
            self._quick_s += (latency_s - self._quick_s) * SLOW_SHARE
        if latency_s > SHRINKS_ABOVE * self._quick_s:
            self.value = max(MIN_IN_FLIGHT, self.value - 1)
        elif was_full and latency_s < GROWS_BELOW * self._quick_s:
            self.value = min(MAX_IN_FLIGHT, self.value + 1)

    def failed(self) -> None:
        """A request was refused for now (throttled, say), or not answered."""
        self.value = max(MIN_IN_FLIGHT, self.value // 2)
