"""The limit of requests in flight to one queue, which is measured and not set.

More requests in flight carry more messages until the queue, the network or this process is
saturated. From then on they only wait longer. So the limit grows while answers take about as long
as the quickest ones, and shrinks when they take several times as long (the idea of TCP Vegas).
"""

from typing import Final

from ..core.batching import MAX_IN_FLIGHT

MIN_IN_FLIGHT: Final = 16
"""The number of requests at which the limit starts, and below which it never falls."""

GROW_BELOW_RATIO: Final = 2.0
"""The latency, in multiples of the quickest, below which the limit grows."""

SHRINK_ABOVE_RATIO: Final = 4.0
"""The latency, in multiples of the quickest, above which the limit shrinks."""

BASELINE_SHIFT: Final = 0.1
"""The share of a slower answer that moves the baseline while the limit is at its minimum."""


class InFlightLimit:
    """The limit of one queue. `value` is the number of requests that may be in flight."""

    def __init__(self) -> None:
        self.value: int = MIN_IN_FLIGHT
        self._baseline_s = 0.0

    def record_answer(self, latency_s: float, *, was_full: bool) -> None:
        """Adjust the limit to an answer. `was_full`: the limit was reached when the request left.

        An answer to a request that left below the limit never raises it.
        """
        if not self._baseline_s or latency_s < self._baseline_s:
            self._baseline_s = latency_s
        elif self.value == MIN_IN_FLIGHT:
            # Else a queue that becomes slower would keep the limit at its minimum.
            self._baseline_s += (latency_s - self._baseline_s) * BASELINE_SHIFT
        if latency_s > SHRINK_ABOVE_RATIO * self._baseline_s:
            self.value = max(MIN_IN_FLIGHT, self.value - 1)
        elif was_full and latency_s < GROW_BELOW_RATIO * self._baseline_s:
            self.value = min(MAX_IN_FLIGHT, self.value + 1)

    def record_failure(self) -> None:
        """Halve the limit: a request was throttled, refused for now, or not answered."""
        self.value = max(MIN_IN_FLIGHT, self.value // 2)
