"""Messages made by hand, as the task libraries make them from a call."""

import json
import uuid
from collections.abc import Iterator


def batches(messages: int) -> Iterator[list[dict[str, str]]]:
    """The entries of SendMessageBatch requests of ten, made when they are asked for."""
    for start in range(0, messages, 10):
        yield [
            {"Id": str(number), "MessageBody": _body(number)}
            for number in range(start, min(start + 10, messages))
        ]


def _body(number: int) -> str:
    content = {
        "task_name": "benchmarks.contestants.work.tasks.welcome",
        "kwargs": {"user_id": number, "template": "welcome"},
        "n_retries": 0,
        "invocation_id": str(uuid.uuid4()),
    }
    return json.dumps(content, separators=(",", ":"))
