"""The Lambda Runtime API, and the real awslambdaric process that works against it.

The API is AWS's: GET next, POST response, POST error, POST init/error, and GET
restore/next, which is where SnapStart takes its snapshot.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.servers.family import kill_family

PREFIX = "/2018-06-01/runtime"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:tests"
START_TIMEOUT_S = 180  # of a cold start, which is no part of an invocation's time
AMPLE_S = 300.0  # of a function whose time is not the subject: see tests.conftest
ENVIRONMENT = {
    "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
    "AWS_LAMBDA_FUNCTION_NAME": "tests",
    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/tests",
    "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class FunctionError(Exception):
    """The function raised, or could not be loaded."""

    def __init__(self, type: str, message: str, trace: list[str]) -> None:
        super().__init__(type, message, trace)
        self.type = type
        self.message = message
        self.trace = trace


class FunctionTimedOut(TimeoutError):
    """The function had no answer at its deadline; its process has been killed, as Lambda does."""


class RuntimeExited(Exception):
    """The process ended in the middle of an invocation; the message is its output."""


@dataclass
class _Invocation:
    id: str
    event: Any
    timeout_s: float
    deadline: float | None = None  # since the epoch; set when it is taken, after a cold start

    def take(self) -> int:
        """Start its time; its deadline in milliseconds, as the runtime is told."""
        self.deadline = time.time() + self.timeout_s
        return round(self.deadline * 1000)


@dataclass(frozen=True)
class _Outcome:
    id: str | None  # None: before any invocation, while the function was loaded
    kind: str
    content: Any


class LambdaProcess:
    """`python -m awslambdaric HANDLER`, warm from one invoke() to the next.

    `timeout_s` is the function's, `env` comes on top of the environment of the tests. `python` and
    `directory`, which it imports from, may be set before start().
    """

    def __init__(
        self,
        handler: str = "lambda_tasks.handler.handler",
        *,
        timeout_s: float = AMPLE_S,
        **env: str,
    ) -> None:
        self.python = sys.executable
        self.directory = Path.cwd()
        self._handler = handler
        self._timeout_s = timeout_s
        self._env = env
        self._api: _RuntimeApi | None = None
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._begun: dict[str, _Invocation] = {}
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Between start() and stop(); what has died is stopped once somebody hears of it."""
        return self._process is not None

    @property
    def output(self) -> str:
        """What the process has printed so far, on both streams; `lines` has it line by line."""
        return "".join(self.lines)

    def start(self) -> None:
        """A cold start; nothing where it runs."""
        if self._process is not None:
            return
        self._api = _RuntimeApi()
        self._process = subprocess.Popen(
            [self.python, "-m", "awslambdaric", self._handler],
            cwd=self.directory,
            env=os.environ | ENVIRONMENT | {"_HANDLER": self._handler} | self._api.env | self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_output, args=(self._process,))
        self._reader.start()

    def stop(self) -> None:
        """End the sandbox: this process and whatever it has started, without a notice."""
        if self._process is None or self._api is None or self._reader is None:
            return
        self.kill_sandbox()
        self._process.wait()
        self._reader.join(timeout=60)
        self._api.close()
        self._process = self._api = self._reader = None

    def kill(self) -> None:
        """SIGKILL for the process alone, as from the kernel's want of memory; wait for its end."""
        self._running().kill()
        self._running().wait()

    def kill_sandbox(self) -> None:
        """SIGKILL for the process and all that it has started, and no word to who invokes it.

        Also for what has a process group of its own, and stands still: it would not see that the
        others are gone, and go on when it is thawed.
        """
        pid = self._running().pid
        kill_family(pid)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def invoke(self, event: Any, *, timeout_s: float | None = None) -> Any:
        """One invocation; its answer.

        Raises FunctionError; FunctionTimedOut and RuntimeExited, after which start() makes the
        next cold start.
        """
        return self.finish(self.begin(event, timeout_s=timeout_s))

    def begin(self, event: Any, *, timeout_s: float | None = None) -> str:
        """The first half of invoke(), for tests that do something in between; its request id."""
        self._running()
        assert self._api is not None
        invocation = _Invocation(str(uuid.uuid4()), event, timeout_s or self._timeout_s)
        self._begun[invocation.id] = invocation
        self._api.invocations.put(invocation)
        return invocation.id

    def finish(self, id: str) -> Any:
        """The second half of invoke()."""
        outcome = self._outcome_of(self._begun.pop(id))
        if outcome.kind == "response":
            return outcome.content
        raise FunctionError(
            outcome.content.get("errorType", ""),
            outcome.content.get("errorMessage", ""),
            outcome.content.get("stackTrace", []),
        )

    def wait_for_snapshot(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until its start is over, where AWS_LAMBDA_INITIALIZATION_TYPE is snap-start."""
        self._running()
        assert self._api is not None
        if not self._api.is_at_snapshot.wait(timeout_s):
            raise FunctionTimedOut(f"No snapshot within {timeout_s} s. Output: {self.output}")

    def restore(self) -> None:
        """Let it go on, as what is restored from its snapshot does."""
        assert self._api is not None
        self._api.is_restored.set()

    def _outcome_of(self, invocation: _Invocation) -> _Outcome:
        assert self._api is not None
        start_deadline = time.time() + START_TIMEOUT_S
        while True:
            exited = self._running().poll() is not None
            with suppress(queue.Empty):
                outcome = self._api.outcomes.get(timeout=0.05)
                if outcome.id in (invocation.id, None):
                    return outcome
                continue
            # An answer may have come between the look at the process and at the answers.
            if exited:
                self.stop()
                raise RuntimeExited(self.output)
            if time.time() > (invocation.deadline or start_deadline):
                self.stop()
                raise FunctionTimedOut(
                    f"No answer within {invocation.timeout_s} s. Output: {self.output}"
                )

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None:
            raise RuntimeError("The function isn't running: start() it.")
        return self._process

    def _read_output(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            self.lines.extend(process.stdout)


class _RuntimeApi(ThreadingHTTPServer):
    """One for each process, so that no invocation is taken by a connection of a dead one."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.invocations: queue.Queue[_Invocation | None] = queue.Queue()
        self.outcomes: queue.Queue[_Outcome] = queue.Queue()
        self.is_at_snapshot = threading.Event()
        self.is_restored = threading.Event()
        self.env = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.server_port}"}
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.invocations.put(None)
        self.is_restored.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A process that is killed leaves its connections in the middle; that is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _RuntimeApi  # pyright: ignore[reportIncompatibleVariableOverride] # only it makes one
    wbufsize = -1  # an answer in one packet: a second one would wait for the first one's receipt

    def do_GET(self) -> None:
        if self.path == f"{PREFIX}/restore/next":
            self.server.is_at_snapshot.set()
            self.server.is_restored.wait()
            return self._answer(200, {})
        if self.path != f"{PREFIX}/invocation/next":
            return self._answer(404, {"errorMessage": f"There is no {self.path}"})
        invocation = self.server.invocations.get()
        if invocation is None:
            self.close_connection = True
            return None
        return self._answer(
            200,
            invocation.event,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.id,
                "Lambda-Runtime-Deadline-Ms": str(invocation.take()),
                "Lambda-Runtime-Invoked-Function-Arn": ARN,
                "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]}",
            },
        )

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null")
        match self.path.removeprefix(f"{PREFIX}/").split("/"):
            case ["invocation", id, ("response" | "error") as kind]:
                self.server.outcomes.put(_Outcome(id, kind, content))
            case ["init", "error"]:
                self.server.outcomes.put(_Outcome(None, "error", content))
            case _:
                return self._answer(404, {"errorMessage": f"There is no {self.path}"})
        return self._answer(202, {"status": "OK"})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what the function prints is in the process's output."""
