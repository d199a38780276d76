"""The Lambda side, as a process of its own: the real handler, fed from the queue.

`python -m demo.function` ends when its standard input does, and so with whoever started it.
"""

import logging
import os
import sys
import threading

from django.conf import settings

from lambda_tasks import handler
from lambda_tasks.local import EventSourceMapping, LambdaContext

FUNCTION_TIMEOUT_S = float(os.environ.get("BOOKSHOP_FUNCTION_TIMEOUT", "60"))
BATCH_SIZE = int(os.environ.get("BOOKSHOP_BATCH_SIZE", "10"))


def main() -> None:
    stop = threading.Event()

    def stop_with_parent() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=stop_with_parent, daemon=True).start()
    logging.getLogger("lambda_tasks.task").addFilter(is_unexpected)
    handler.handler({"lambda_tasks": "ping"}, None)
    queue_url = os.environ["BOOKSHOP_QUEUE_URL"]
    mapping = EventSourceMapping(
        queue_url,
        lambda event: handler.handler(event, LambdaContext(timeout_s=FUNCTION_TIMEOUT_S)),
        client_options=settings.LAMBDA_TASKS_AWS,
        batch_size=BATCH_SIZE,
    )
    mapping.run(stop.is_set)
    handler.close()


def is_unexpected(record: logging.LogRecord) -> bool:
    """Hide the failures that the demo makes on purpose: its table counts them."""
    from shop.tasks import AddressBounces  # once Django is set up

    return not (record.exc_info and isinstance(record.exc_info[1], AddressBounces))


if __name__ == "__main__":
    main()
