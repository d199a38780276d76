"""A proxy before a real SQS endpoint that counts requests and does what networks and AWS do.

It loses answers, answers with errors, refuses entries, and is not there; the rest it passes on.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

Refuse = Callable[[str], bool]


@dataclass
class Fault:
    """What happens to the next `times` requests. `refuse` picks entries by their body."""

    times: int = 1
    status: int | None = None
    lose_answer: bool = False
    drop: bool = False
    refuse: Refuse | None = None
    sender_fault: bool = False


@dataclass
class Requests:
    """What has passed: requests by action, and the bodies of what was forwarded."""

    by_action: Counter[str] = field(default_factory=Counter)
    batches: list[list[str]] = field(default_factory=list)


class FaultySqs:
    """Use it as a context manager; `endpoint_url` is where clients go."""

    def __init__(self, target_url: str) -> None:
        self.requests = Requests()
        self._target_url = target_url
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; a second time on the same port."""
        port = getattr(self, "_port", 0)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Be unreachable."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    def inject(self, fault: Fault) -> None:
        """Faults are used up in their order."""
        self._faults.append(fault)

    def _next_fault(self) -> Fault | None:
        with self._lock:
            if not self._faults:
                return None
            fault = self._faults[0]
            fault.times -= 1
            if not fault.times:
                self._faults.pop(0)
            return fault

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            # One request a connection: a lost answer is then a closed connection and no more.
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = proxy._answer(dict(self.headers), body)
                self.close_connection = True
                if answer is None:
                    return
                status, content = answer
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def _answer(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes] | None:
        """None where the client gets no answer."""
        action = headers.get("X-Amz-Target", "").rpartition(".")[2]
        with self._lock:
            self.requests.by_action[action] += 1
        fault = self._next_fault() if action == "SendMessageBatch" else None
        if fault is None:
            return self._forward(headers, body)
        if fault.drop:
            return None
        if fault.status is not None:
            return fault.status, json.dumps({"__type": "InternalError", "message": "oh"}).encode()
        if fault.refuse is not None:
            return self._forward_without(headers, body, fault, fault.refuse)
        answer = self._forward(headers, body)
        return None if fault.lose_answer else answer

    def _forward_without(
        self, headers: dict[str, str], body: bytes, fault: Fault, refuse: Refuse
    ) -> tuple[int, bytes]:
        content = json.loads(body)
        refused = [each for each in content["Entries"] if refuse(each["MessageBody"])]
        content["Entries"] = [each for each in content["Entries"] if each not in refused]
        answer: dict[str, Any] = {"Successful": []}
        if content["Entries"]:
            answer = json.loads(self._forward(headers, json.dumps(content).encode())[1])
        if refused:
            answer["Failed"] = [
                {
                    "Id": each["Id"],
                    "SenderFault": fault.sender_fault,
                    "Code": "Refused",
                    "Message": "by the test",
                }
                for each in refused
            ]
        return 200, json.dumps(answer).encode()

    def _forward(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        content = json.loads(body)
        if "Entries" in content:
            with self._lock:
                self.requests.batches.append([e.get("MessageBody") for e in content["Entries"]])
        passed = {k: v for k, v in headers.items() if k.lower() not in ("host", "content-length")}
        request = Request(self._target_url, data=body, headers=passed, method="POST")
        try:
            with urlopen(request, timeout=10) as response:
                return response.status, response.read()
        except HTTPError as error:
            with error:
                return error.code, error.read()
