"""An SQS endpoint on loopback: MiniStack, as a child process that ends with its parent."""

import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from ..local_run import ACCOUNT, REGION
from . import sqs_guard

START_TIMEOUT_S: Final = 30.0

ACCESS_KEY_VARIABLE: Final = "LAMBDA_TASKS_LOCAL_SQS_ACCESS_KEY"
"""In the environment of the child alone: other users of the machine can read command lines."""

_SERVE: Final = """
import asyncio, os, runpy, sys, threading
access_key = os.environ.pop("LAMBDA_TASKS_LOCAL_SQS_ACCESS_KEY")
def end_with_parent():
    os.read(0, 1)
    os._exit(0)
threading.Thread(target=end_with_parent, daemon=True).start()
from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app
_, listener, authority, guard_file = sys.argv
guard = runpy.run_path(guard_file)["Guard"](app, authority=authority, access_key=access_key)
config = Config()
config.bind = ["fd://" + listener]
config.keep_alive_timeout = 75
config.loglevel = "ERROR"
asyncio.run(serve(guard, config))
"""
"""Not MiniStack's own main(), which chooses its address itself and leaves a pid file. The guard
comes from its file: an import of this package would load Django first.

Standard input is a pipe from the parent: it closes when the parent ends, however it ends.
"""

_INHERITED: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR")
_SETTINGS: Final = {
    "MINISTACK_HOST": "127.0.0.1",
    "MINISTACK_REGION": REGION,
    "MINISTACK_ACCOUNT_ID": ACCOUNT,
    "SERVICES": "sqs",
    "LOG_LEVEL": "ERROR",
    # Listeners of services that nobody asked for, each on a fixed port.
    "SFTP_ENABLED": "0",
    "IOT_MTLS_ENABLED": "0",
    # At its start it removes the containers of every other MiniStack that Docker knows.
    "DOCKER_HOST": "unix:///nonexistent",
}


class LocalSqs:
    """Real SQS requests without AWS. Use it as a context manager, or start() and stop() it.

    `endpoint_url` is its address, `client_options` what LAMBDA_TASKS_AWS holds to reach it: it
    answers nobody who has not its credentials, which are random. Both stay the same from one
    start() to the next; the queues do not.
    """

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or _free_port()
        self._authority = f"127.0.0.1:{self.port}"
        self.endpoint_url = f"http://{self._authority}"
        self.client_options: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": secrets.token_urlsafe(),
            "aws_secret_access_key": secrets.token_urlsafe(),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"pid {self._process.pid}"
        return f"<LocalSqs {self.endpoint_url} [{state}]>"

    def start(self) -> None:
        """Return when it answers. Raises ModuleNotFoundError, with the fix, without MiniStack."""
        if self._process is not None:
            return
        if find_spec("ministack") is None:
            raise ModuleNotFoundError(
                "A local SQS needs MiniStack: pip install 'lambda-tasks[local]'.", name="ministack"
            )
        with tempfile.TemporaryFile() as output, self._listener() as listener:
            self._process = self._spawn(listener, output.fileno())
            listener.close()  # the child's copy is now the only one, and ends with the child
            if not self._answers():
                self.stop()
                output.seek(0)
                raise RuntimeError(f"MiniStack did not start. It wrote: {output.read().decode()}")

    def stop(self) -> None:
        """End it; its queues are gone."""
        if self._process is None:
            return
        if "client" in self.__dict__:
            self.client.close()
            del self.client
        # It keeps nothing that a slower end would save.
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None

    def create_queue(
        self,
        name: str,
        *,
        visibility_timeout_s: int = 30,
        max_receive_count: int | None = None,
        fifo: bool = False,
    ) -> str:
        """Create a queue and return its URL.

        With `max_receive_count` it gets a dead-letter queue NAME-dlq. A FIFO queue's name ends in
        `.fifo`, as SQS wants it, whether or not the given one does.
        """
        stem = name.removesuffix(".fifo")
        suffix = ".fifo" if fifo or stem != name else ""
        attributes = {"VisibilityTimeout": str(visibility_timeout_s)}
        if suffix:
            attributes["FifoQueue"] = "true"
        if max_receive_count is not None:
            dead_letters = self.create_queue(f"{stem}-dlq{suffix}")
            attributes["RedrivePolicy"] = json.dumps(
                {
                    "deadLetterTargetArn": queue_arn(dead_letters),
                    "maxReceiveCount": max_receive_count,
                }
            )
        response = self.client.create_queue(QueueName=stem + suffix, Attributes=attributes)
        url: str = response["QueueUrl"]
        return url

    def queue_url(self, name: str) -> str:
        """The URL of a queue that is there, its dead-letter queue for instance."""
        url: str = self.client.get_queue_url(QueueName=name)["QueueUrl"]
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

    def purge(self, queue_url: str) -> None:
        """Drop every message, those in flight too."""
        self.client.purge_queue(QueueUrl=queue_url)

    @cached_property
    def client(self) -> Any:
        """A botocore client of it."""
        return make_client(self.client_options)

    def _listener(self) -> socket.socket:
        """Listening before the child does: the port can't be lost, and a first request waits."""
        return socket.create_server(("127.0.0.1", self.port), backlog=128)

    def _spawn(self, listener: socket.socket, output: int) -> "subprocess.Popen[bytes]":
        inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        own = {
            "GATEWAY_PORT": str(self.port),
            ACCESS_KEY_VARIABLE: self.client_options["aws_access_key_id"],
        }
        guard_file = Path(sqs_guard.__file__).resolve()
        arguments = [str(listener.fileno()), self._authority, str(guard_file)]
        return subprocess.Popen(
            # -P: a module of the current directory must not stand in for one that it imports.
            [sys.executable, "-P", "-c", _SERVE, *arguments],
            env=inherited | _SETTINGS | own,
            cwd=tempfile.gettempdir(),
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # Ctrl+C at a terminal is for the parent, which stops it in order.
            start_new_session=True,
        )

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_TIMEOUT_S)
        try:
            credential = f"Credential={self.client_options['aws_access_key_id']}/health"
            headers = {"Authorization": f"AWS4-HMAC-SHA256 {credential}"}
            connection.request("GET", sqs_guard.HEALTH_PATH, headers=headers)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def make_client(options: dict[str, Any]) -> Any:
    """A synchronous SQS client."""
    from botocore.session import get_session

    return get_session().create_client("sqs", **options)


def queue_arn(queue_url: str, region: str = REGION) -> str:
    """The ARN of the queue at a URL."""
    account, name = queue_url.rsplit("/", 2)[1:]
    return f"arn:aws:sqs:{region}:{account}:{name}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
