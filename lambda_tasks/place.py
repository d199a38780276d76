"""Where this process runs, in words that lead to its logs."""

import os
import socket
from typing import Final

MAX_ID: Final = 200


def worker_id() -> str:
    """On Lambda the name of the log stream, one for each container; elsewhere HOST:PID."""
    log_stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")
    return (log_stream or f"{socket.gethostname()}:{os.getpid()}")[:MAX_ID]
