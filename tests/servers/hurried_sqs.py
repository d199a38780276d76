"""A proxy before a real SQS endpoint whose long waits are over many times as soon."""

import json
import math
from typing import Any

from tests.servers.faulty_sqs import Answer, Content, FaultySqs


class HurriedSqs(FaultySqs):
    """Use it as a context manager. It counts no requests and knows no faults.

    `hurry` divides the times that a client asks for: how long what it receives is hidden, and what
    it puts back, and delays of more than `hurry` seconds. A second is the least, as SQS counts in
    seconds.
    """

    def __init__(self, target_url: str, *, hurry: float = 10) -> None:
        self._hurry = hurry
        super().__init__(target_url)

    def answer(self, action: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """See FaultySqs."""
        content = self._hurried(json.loads(body))
        return self._forward(headers, json.dumps(content).encode())

    def _hurried(self, content: Content) -> Content:
        if "Entries" in content:
            return content | {"Entries": [self._shortened(each) for each in content["Entries"]]}
        return self._shortened(content)

    def _shortened(self, content: dict[str, Any]) -> dict[str, Any]:
        shortened = {}
        for name, least in (("VisibilityTimeout", 0), ("DelaySeconds", self._hurry)):
            if content.get(name, 0) > least:
                shortened[name] = math.ceil(content[name] / self._hurry)
        return content | shortened
