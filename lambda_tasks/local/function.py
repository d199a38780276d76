"""The process of a Lambda function on a laptop.

It feeds the real handler from queues of a local SQS, and ticks like a schedule of EventBridge.
SIGTERM ends it after the current invocation, whose runs have DRAIN_S to end; a second one
interrupts them at once.
"""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Final

from .chaos import Chaos, ChaoticFunction
from .event_source import EventSourceMapping, LambdaContext
from .part import DRAIN_S

TICK_EVERY_S: Final = 10.0
"""Seconds between two ticks."""

TICK: Final = {"lambda_tasks": "tick"}
"""The event that lets the handler run its relay."""


OUTAGE_S: Final = 30.0
"""Seconds without an answer of the local SQS after which the process ends with its error."""

RETRY_S: Final = 0.5
"""Seconds before a local SQS is asked again that did not answer."""

logger = logging.getLogger("lambda_tasks")


class LocalFunction:
    """The function with an event source mapping for each queue. One invocation runs at a time."""

    def __init__(self, queue_urls: Sequence[str], *, timeout_s: float, chaos: Chaos) -> None:
        self._queue_urls = queue_urls
        self._timeout_s = timeout_s
        self._chaos = chaos
        self._stopping = False
        self._ticked_at = 0.0
        self._answered_at = time.monotonic()

    def stop(self) -> None:
        """Let run() return after the current invocation. A second call interrupts its runs."""
        from .. import handler

        if self._stopping:
            handler.interrupt()
        else:
            self._stopping = True
            interrupting = threading.Timer(DRAIN_S, handler.interrupt)
            interrupting.daemon = True
            interrupting.start()

    def run(self, client_options: dict[str, Any]) -> None:
        """Invoke the handler with messages and ticks until stop()."""
        from .. import handler

        function = ChaoticFunction(self._handle, self._chaos, handler.pids)
        with ExitStack() as open_mappings:
            mappings = [
                open_mappings.enter_context(
                    EventSourceMapping(
                        url,
                        function,
                        client_options=client_options,
                        function_timeout_s=self._timeout_s,
                    )
                )
                for url in self._queue_urls
            ]
            while not self._stopping:
                self._tick_if_due()
                self._poll(mappings)
        handler.close()

    def _poll(self, mappings: Sequence[EventSourceMapping]) -> None:
        """Poll each queue once.

        Raises what the client raises once the local SQS has answered nothing for OUTAGE_S.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        # Queues are polled in turn, so a long poll of one would delay the others.
        wait_s = 1 if len(mappings) == 1 else 0
        try:
            n_messages = sum(mapping.poll_once(wait_s) for mapping in mappings)
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() - self._answered_at > OUTAGE_S:
                raise
            logger.warning("The local SQS does not answer; it is asked again: %s", error)
            time.sleep(RETRY_S)
            return
        self._answered_at = time.monotonic()
        if not n_messages and not wait_s:
            time.sleep(0.2)

    def _handle(self, event: Any) -> Any:
        from ..handler import handler

        return handler(event, LambdaContext(timeout_s=self._timeout_s))

    def _tick_if_due(self) -> None:
        if time.monotonic() - self._ticked_at > TICK_EVERY_S:
            self._handle(TICK)
            self._ticked_at = time.monotonic()


def main(arguments: Sequence[str]) -> None:
    """Run the process. Arguments: `--timeout SECONDS --chaos KIND=PERCENT,... QUEUE_URL...`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queue_urls", nargs="+", metavar="QUEUE_URL")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--chaos", type=Chaos.parse, default=Chaos())
    options = parser.parse_args(arguments)

    import django

    django.setup()
    from ..conf import current

    queue_urls: Sequence[str] = options.queue_urls
    function = LocalFunction(queue_urls, timeout_s=options.timeout, chaos=options.chaos)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: function.stop())
    function.run(dict(current().aws))


if __name__ == "__main__":
    main(sys.argv[1:])
