"""An SQS endpoint on loopback: MiniStack, as a child process that ends with its parent."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Final, Self

START_TIMEOUT_S: Final = 30.0

_SERVE: Final = """
import os, sys, threading
def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)
threading.Thread(target=end_with_parent, daemon=True).start()
from ministack.app import main
sys.argv = ["ministack"]
main()
"""
"""Standard input is a pipe from the parent: it closes when the parent ends, however it ends."""


class LocalSqs:
    """Real SQS requests without AWS. Use it as a context manager, or start() and stop() it.

    `endpoint_url` is its address, `client_options` what LAMBDA_TASKS_AWS holds to reach it.
    """

    def __init__(self) -> None:
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint_url = f"http://127.0.0.1:{self._port}"
        self.client_options: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when it answers. Raises ModuleNotFoundError, with the fix, without MiniStack."""
        if find_spec("ministack") is None:
            raise ModuleNotFoundError(
                "A local SQS needs MiniStack: pip install 'lambda-tasks[local]'."
            )
        environment = os.environ | {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self._port),
            "MINISTACK_HOST": "127.0.0.1",
            "SERVICES": "sqs",
            "LOG_LEVEL": "ERROR",
            "TMPDIR": tempfile.gettempdir(),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl+C at a terminal is for the parent, which stops it in order.
            start_new_session=True,
        )
        self._wait()

    def stop(self) -> None:
        """End it; its queues are gone."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.wait(timeout=10)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def create_queue(
        self,
        name: str,
        *,
        visibility_timeout_s: int = 30,
        max_receive_count: int | None = None,
    ) -> str:
        """Create a queue, with a dead-letter queue `NAME-dlq` where a count is given; its URL."""
        attributes = {"VisibilityTimeout": str(visibility_timeout_s)}
        if max_receive_count is not None:
            dead_letters = self.create_queue(f"{name}-dlq")
            attributes["RedrivePolicy"] = json.dumps(
                {
                    "deadLetterTargetArn": queue_arn(dead_letters),
                    "maxReceiveCount": max_receive_count,
                }
            )
        if name.endswith(".fifo"):
            attributes["FifoQueue"] = "true"
        response = self.client.create_queue(QueueName=name, Attributes=attributes)
        url: str = response["QueueUrl"]
        return url

    def counts(self, queue_url: str) -> dict[str, int]:
        """How many messages are `visible`, `in_flight` and `delayed`."""
        names = {
            "visible": "ApproximateNumberOfMessages",
            "in_flight": "ApproximateNumberOfMessagesNotVisible",
            "delayed": "ApproximateNumberOfMessagesDelayed",
        }
        attributes = self.client.get_queue_attributes(
            QueueUrl=queue_url, AttributeNames=list(names.values())
        )["Attributes"]
        return {key: int(attributes.get(name, 0)) for key, name in names.items()}

    @cached_property
    def client(self) -> Any:
        """A botocore client of it."""
        return make_client(self.client_options)

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise RuntimeError(f"MiniStack did not start: it ended with {self._process.poll()}.")


def make_client(options: dict[str, Any]) -> Any:
    """A synchronous SQS client."""
    from botocore.session import get_session

    return get_session().create_client("sqs", **options)


def queue_arn(queue_url: str) -> str:
    """The ARN that a local queue has."""
    account, name = queue_url.rsplit("/", 2)[1:]
    return f"arn:aws:sqs:us-east-1:{account}:{name}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
