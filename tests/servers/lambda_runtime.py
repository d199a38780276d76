"""The Lambda Runtime API, and the real awslambdaric process that works against it.

The API is AWS's: GET next, POST response, POST error, POST init/error.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

PREFIX = "/2018-06-01/runtime"
ARN = "arn:aws:lambda:us-east-1:000000000000:function:tests"


class FunctionError(Exception):
    """The function raised; the arguments are the error's type, its message and its trace."""


class RuntimeExited(Exception):
    """The process ended in the middle of an invocation; the message is its output."""


class LambdaProcess:
    """`python -m awslambdaric HANDLER`, warm from one invoke() to the next."""

    def __init__(
        self, handler: str = "lambda_tasks.handler.handler", *, timeout_s: float = 30, **env: str
    ) -> None:
        self._handler = handler
        self._timeout_s = timeout_s
        self._env = env
        self._events: queue.Queue[tuple[str, Any] | None] = queue.Queue()
        self._answers: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._output: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._api())
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._server.serve_forever, args=(0.01,))]
        self._threads[0].start()
        host, port = self._server.server_address[:2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", self._handler],
            env={
                **os.environ,
                "AWS_LAMBDA_RUNTIME_API": f"{host!s}:{port}",
                "AWS_LAMBDA_FUNCTION_NAME": "tests",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
                "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/tests",
                "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
                "AWS_REGION": "us-east-1",
                **self._env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._threads.append(threading.Thread(target=self._read_output))
        self._threads[1].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        self._events.put(None)
        self._process.kill()
        self._process.wait(timeout=10)
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """What the process has printed so far."""
        return "".join(self._output)

    def invoke(self, event: Any) -> Any:
        """One invocation; its answer. Raises FunctionError and RuntimeExited."""
        assert self._process is not None
        self._events.put((str(uuid.uuid4()), event))
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            try:
                kind, content = self._answers.get(timeout=0.1)
            except queue.Empty:
                if self._process.poll() is not None:
                    raise RuntimeExited(self.output) from None
                continue
            if kind == "response":
                return content
            raise FunctionError(
                content.get("errorType"), content.get("errorMessage"), content.get("stackTrace")
            )
        raise TimeoutError(f"No answer within {self._timeout_s} s. Output: {self.output}")

    def _read_output(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._output.append(line)

    def _api(self) -> type[BaseHTTPRequestHandler]:
        runtime = self

        class Api(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                item = runtime._events.get()
                if item is None:
                    self.close_connection = True
                    return
                id, event = item
                deadline_ms = round((time.time() + runtime._timeout_s) * 1000)
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", id)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline_ms))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", ARN)
                self._body(json.dumps(event).encode())

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                kind = self.path.removeprefix(PREFIX).rsplit("/", 1)[1]
                runtime._answers.put((kind, json.loads(content)))
                self.send_response(202)
                self._body(b"{}")

            def _body(self, content: bytes) -> None:
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Api
