"""A proxy before a real SQS endpoint whose visibility timeouts are over many times as soon."""

import json
import math
from typing import Any

from tests.servers.faulty_sqs import Answer, Content, FaultySqs


class HurriedSqs(FaultySqs):
    """Use it as a context manager. It counts no requests and knows no faults.

    `hurry` divides the timeouts that a client asks for: how long what it receives is hidden, and
    what it puts back. A second is the least, as SQS counts in seconds.
    """

    def __init__(self, target_url: str, *, hurry: float = 10) -> None:
        self._hurry = hurry
        super().__init__(target_url)

    def answer(self, action: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """See FaultySqs."""
        content = self._hurried(action, json.loads(body))
        return self._forward(headers, json.dumps(content).encode())

    def _hurried(self, action: str, content: Content) -> Content:
        if action == "ChangeMessageVisibilityBatch":
            return content | {"Entries": [self._shortened(each) for each in content["Entries"]]}
        return self._shortened(content)

    def _shortened(self, content: dict[str, Any]) -> dict[str, Any]:
        if "VisibilityTimeout" not in content:
            return content
        shortened = math.ceil(content["VisibilityTimeout"] / self._hurry)
        return content | {"VisibilityTimeout": shortened}
