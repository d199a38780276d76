"""A proxy before a real SQS endpoint that counts requests and does what networks and AWS do.

It loses answers, answers late or with errors, refuses entries, delivers twice, and is not there;
the rest it passes on.
"""

import http.client
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

Content = dict[str, Any]
Answer = tuple[int, bytes]

FORWARD_TIMEOUT_S = 30.0
ERROR_TYPES = {500: "InternalFailure", 503: "ServiceUnavailable", 403: "AccessDenied"}


@dataclass(frozen=True)
class Fault:
    """What happens to the next `times` requests of an action; to each of them where it is None.

    `when` chooses among these by their content. Of the rest one or more may be given:
    `latency_s` waits first; `drop` closes the connection and forwards nothing; `status` answers
    with that error, of the type `error`, and forwards nothing; `refuse` picks entries by their
    body and forwards the others; `lose_answer` forwards and closes the connection; `hang` forwards
    and answers not before release() (with `drop`, it doesn't forward either); `twice` delivers what
    the request received once more with the next one, even if it has been deleted in between.
    """

    times: int | None = 1
    action: str = "SendMessageBatch"
    when: Callable[[Content], bool] = lambda content: True
    latency_s: float = 0.0
    drop: bool = False
    status: int | None = None
    error: str = ""
    refuse: Callable[[str], bool] | None = None
    sender_fault: bool = False
    code: str = "Refused"
    lose_answer: bool = False
    hang: bool = False
    twice: bool = False

    @classmethod
    def delivered_twice(cls, times: int | None = 1) -> Self:
        """At-least-once delivery, taken at its word."""
        return cls(times=times, action="ReceiveMessage", twice=True)


@dataclass
class Requests:
    """What has arrived: requests[ACTION] counts, `contents` holds all in their order.

    `raw` has their headers, with names in lower case, and their bodies as they came.
    `batches` has the bodies of what was forwarded in SendMessageBatch, a list for each request.
    """

    by_action: Counter[str] = field(default_factory=Counter)
    contents: list[tuple[str, Content]] = field(default_factory=list)
    raw: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def __getitem__(self, action: str) -> int:
        return self.by_action[action]

    def wait_for(self, action: str, count: int = 1, *, timeout_s: float = 10) -> None:
        """Return when so many have arrived, answered or not. Raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self[action] >= count, timeout_s):
                raise TimeoutError(f"{self[action]} of {count} {action} within {timeout_s} s.")

    def note_arrival(self, action: str, content: Content) -> None:
        with self._arrived:
            self.by_action[action] += 1
            self.contents.append((action, content))
            self._arrived.notify_all()

    def note_forwarding(self, action: str, content: Content) -> None:
        if action == "SendMessageBatch":
            self.batches.append([each.get("MessageBody") for each in content["Entries"]])


class FaultySqs:
    """Listens from the beginning; use it as a context manager. Clients go to `endpoint_url`.

    What it passes on has their headers, `added_headers` over them, and its target's Host.
    """

    def __init__(self, target_url: str) -> None:
        self.requests = Requests()
        self.added_headers: dict[str, str] = {}
        self._target = urlsplit(target_url).netloc
        self._faults: list[Fault] = []
        self._again: deque[Content] = deque()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._port = 0
        self._server: _Server | None = None
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        return self._port

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; a second time on the same port."""
        if self._server is not None:
            return
        self._server = _Server(self._port, self)
        self._port = self._server.server_port
        # The interval is what stop() waits for at the most.
        threading.Thread(target=self._server.serve_forever, args=(0.01,)).start()

    def stop(self) -> None:
        """Be unreachable; what hangs is let go."""
        if self._server is None:
            return
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._server = None

    def inject(self, fault: Fault, *, times: int | None = None) -> None:
        """Let a fault happen. Each request meets the first that fits it, in the order of calls."""
        with self._lock:
            self._faults.append(fault if times is None else replace(fault, times=times))

    def clear(self) -> None:
        """Take back every fault; what hangs is let go."""
        with self._lock:
            self._faults.clear()
        self.release()

    def release(self) -> None:
        """Answer what hangs, late as it is. What will hang from now on hangs anew."""
        released, self._released = self._released, threading.Event()
        released.set()

    def answer(self, action: str, headers: dict[str, str], body: bytes) -> Answer | None:
        """What a client gets; None where its connection is closed without an answer."""
        content = json.loads(body)
        self.requests.raw.append((headers, body))
        fault, released = self._take_fault(action, content), self._released
        self.requests.note_arrival(action, content)
        if fault is None:
            return self._pass_on(action, headers, content)
        time.sleep(fault.latency_s)
        answer = self._fail(fault, action, headers, content)
        if fault.hang:
            released.wait()
        return answer

    def _take_fault(self, action: str, content: Content) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.action == action and fault.when(content):
                    self._use_up(index, fault)
                    return fault
        return None

    def _use_up(self, index: int, fault: Fault) -> None:
        if fault.times is not None and fault.times > 1:
            self._faults[index] = replace(fault, times=fault.times - 1)
        elif fault.times is not None:
            del self._faults[index]

    def _fail(
        self, fault: Fault, action: str, headers: dict[str, str], content: Content
    ) -> Answer | None:
        if fault.drop:
            return None
        if fault.status is not None:
            return _error(fault.status, fault.error)
        if fault.refuse is not None:
            answer = self._pass_on_the_unrefused(fault, action, headers, content)
        else:
            answer = self._pass_on(action, headers, content, remember=fault.twice)
        return None if fault.lose_answer else answer

    def _pass_on_the_unrefused(
        self, fault: Fault, action: str, headers: dict[str, str], content: Content
    ) -> Answer:
        assert fault.refuse is not None
        refused = [each for each in content["Entries"] if fault.refuse(each["MessageBody"])]
        others = [each for each in content["Entries"] if each not in refused]
        status, answer = http.client.OK, b'{"Successful": []}'
        if others:
            status, answer = self._pass_on(action, headers, content | {"Entries": others})
        if status != http.client.OK or not refused:
            return status, answer
        merged = json.loads(answer)
        merged.setdefault("Failed", []).extend(_failed(each, fault) for each in refused)
        return status, json.dumps(merged).encode()

    def _pass_on(
        self, action: str, headers: dict[str, str], content: Content, *, remember: bool = False
    ) -> Answer:
        if action == "ReceiveMessage" and (again := self._take_again(content)):
            return http.client.OK, json.dumps({"Messages": again}).encode()
        with self._lock:
            self.requests.note_forwarding(action, content)
        status, body = self._forward(headers, json.dumps(content).encode())
        answer = json.loads(body or b"{}")
        if not answer.get("Failed", True):
            del answer["Failed"]  # AWS leaves it out when it is empty
        if remember:
            self._again.extend(_delivered_again(each) for each in answer.get("Messages", []))
        return status, json.dumps(answer).encode()

    def _take_again(self, content: Content) -> list[Content]:
        with self._lock:
            count = min(len(self._again), content.get("MaxNumberOfMessages", 1))
            return [self._again.popleft() for _ in range(count)]

    def _forward(self, headers: dict[str, str], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._target, timeout=FORWARD_TIMEOUT_S)
        passed = {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
        try:
            connection.request("POST", "/", body, passed | self.added_headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return _error(http.client.BAD_GATEWAY)
        finally:
            connection.close()


_HOP_BY_HOP = {"host", "content-length", "connection", "accept-encoding"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, proxy: FaultySqs) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that doesn't wait for its answer is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    # One request a connection, so a lost answer is a closed connection and no more.
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride] # only it makes one
    wbufsize = -1  # an answer in one packet: a second one would wait for the first one's receipt

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        answer = self.server.proxy.answer(action, headers, body)
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
        """Nothing: the tests read `requests`."""


def _error(status: int, type: str = "") -> Answer:
    type = type or ERROR_TYPES.get(status, "InternalFailure")
    return status, json.dumps({"__type": type, "message": "by the test"}).encode()


def _failed(entry: Content, fault: Fault) -> Content:
    return {
        "Id": entry["Id"],
        "SenderFault": fault.sender_fault,
        "Code": fault.code,
        "Message": "by the test",
    }


def _delivered_again(message: Content) -> Content:
    attributes = dict(message.get("Attributes", {}))
    if "ApproximateReceiveCount" in attributes:
        count = int(attributes["ApproximateReceiveCount"]) + 1
        attributes["ApproximateReceiveCount"] = str(count)
    return message | {"Attributes": attributes}
