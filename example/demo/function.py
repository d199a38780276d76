"""The Lambda side, as a process of its own: the real handler, fed from the queue.

`python -m demo.function` ends when its standard input does, and so with whoever started it.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings

from lambda_tasks import handler
from lambda_tasks.local import EventSourceMapping, LambdaContext

FUNCTION_TIMEOUT_S = float(os.environ.get("BOOKSHOP_FUNCTION_TIMEOUT", "60"))
BATCH_SIZE = int(os.environ.get("BOOKSHOP_BATCH_SIZE", "10"))
TICK_EVERY_S = 10.0
"""On AWS a minute; but nobody likes to wait for a demo."""


def main() -> None:
    stop = threading.Event()

    def stop_with_parent() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=stop_with_parent, daemon=True).start()
    logging.getLogger("lambda_tasks.task").addFilter(is_unexpected)
    invoke({"lambda_tasks": "ping"})
    queue_url = os.environ["BOOKSHOP_QUEUE_URL"]
    mapping = EventSourceMapping(
        queue_url,
        invoke,
        client_options=settings.LAMBDA_TASKS_AWS,
        batch_size=BATCH_SIZE,
    )
    mapping.run(ticking_until(stop.is_set))
    handler.close()


def invoke(event: Any) -> dict[str, Any]:
    return handler.handler(event, LambdaContext(timeout_s=FUNCTION_TIMEOUT_S))


def ticking_until(is_stopped: Callable[[], bool]) -> Callable[[], bool]:
    """Tick each time that this is asked and a tick is due, as EventBridge Scheduler does on AWS.

    A tick sends what the views have stored and could not send.
    """
    ticked_at = time.monotonic()

    def tick_if_due() -> bool:
        nonlocal ticked_at
        if time.monotonic() - ticked_at > TICK_EVERY_S:
            ticked_at = time.monotonic()
            try:
                invoke({"lambda_tasks": "tick"})
            except Exception:
                logging.getLogger(__name__).exception("A tick failed; the next one does its work")
        return is_stopped()

    return tick_if_due


def is_unexpected(record: logging.LogRecord) -> bool:
    """Hide the failures that the demo makes on purpose: its table counts them."""
    from shop.tasks import AddressBounces  # once Django is set up

    return not (record.exc_info and isinstance(record.exc_info[1], AddressBounces))


if __name__ == "__main__":
    main()
