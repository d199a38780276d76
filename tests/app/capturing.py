"""Sentry with a transport that keeps what it would send; without Sentry's SDK, nothing."""

from collections.abc import Callable
from typing import Any

try:
    import sentry_sdk
    from sentry_sdk.transport import Transport
except ImportError:
    Transport = object  # type: ignore[assignment, misc]

Keep = Callable[[dict[str, Any]], object]


class KeepingTransport(Transport):  # pyright: ignore[reportGeneralTypeIssues]
    def __init__(self, keep: Keep) -> None:
        super().__init__()
        self._keep = keep

    def capture_envelope(self, envelope: Any) -> None:
        for item in envelope.items:
            if item.type in ("event", "transaction", "check_in"):
                self._keep({"type": item.type} | item.payload.json)


def init(keep: Keep) -> None:
    """Let Sentry give everything that it would send to `keep`."""
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        transport=KeepingTransport(keep),
        traces_sample_rate=1.0,
        auto_enabling_integrations=False,
    )


def close() -> None:
    """Let Sentry capture nothing more. A second init() would slow all that follows."""
    sentry_sdk.get_global_scope().set_client(None)
