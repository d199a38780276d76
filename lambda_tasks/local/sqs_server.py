"""The SQS endpoint on loopback: MiniStack, in a child process that ends with its parent."""

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
"""Seconds for MiniStack to answer its first request."""

ACCESS_KEY_VARIABLE: Final = "LAMBDA_TASKS_LOCAL_SQS_ACCESS_KEY"
"""The child's environment variable with the access key.

It is not an argument, because other users of the machine can read command lines.
"""

_SERVER_SCRIPT: Final = """
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
"""The child's program.

It does not call MiniStack's main(), which chooses its address itself and leaves a pid file. The
guard is loaded from its file, as an import of this package would load Django first. Standard input
is a pipe from the parent, which closes however the parent ends.
"""

_INHERITED_VARIABLES: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR")
_MINISTACK_VARIABLES: Final = {
    "MINISTACK_HOST": "127.0.0.1",
    "MINISTACK_REGION": REGION,
    "MINISTACK_ACCOUNT_ID": ACCOUNT,
    "SERVICES": "sqs",
    "LOG_LEVEL": "ERROR",
    # Off: services that nobody needs, each of which would listen on a fixed port.
    "SFTP_ENABLED": "0",
    "IOT_MTLS_ENABLED": "0",
    # MiniStack would remove the containers of every other MiniStack that it finds in Docker.
    "DOCKER_HOST": "unix:///nonexistent",
}


class LocalSqs:
    """A local server with SQS's API. Use it as a context manager, or call start() and stop().

    `endpoint_url` is its address. `client_options` are the arguments of an AWS client, or the value
    of LAMBDA_TASKS_AWS, that reach it; they hold random credentials, and the server answers no
    others. Both survive a restart of the server; its queues do not. By default a free `port` is
    used.
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
        """Start the server and return when it answers.

        Raises ModuleNotFoundError where MiniStack is not installed, and RuntimeError with its
        output where it does not answer within START_TIMEOUT_S.
        """
        if self._process is not None:
            return
        if find_spec("ministack") is None:
            raise ModuleNotFoundError(
                "A local SQS needs MiniStack: pip install 'lambda-tasks[local]'.", name="ministack"
            )
        with tempfile.TemporaryFile() as output, self._listener() as listener:
            self._process = self._spawn(listener, output.fileno())
            # Only the child's copy stays open, so that the port is closed when the child dies.
            listener.close()
            if not self._answers():
                self.stop()
                output.seek(0)
                raise RuntimeError(f"MiniStack did not start. It wrote: {output.read().decode()}")

    def stop(self) -> None:
        """Stop the server, which forgets its queues."""
        if self._process is None:
            return
        if "client" in self.__dict__:
            self.client.close()
            del self.client
        # MiniStack stores nothing, so there is nothing to save by a slower end.
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

        With `max_receive_count` the queue gets a dead-letter queue NAME-dlq. With `fifo`, or where
        `name` ends in `.fifo`, it is a FIFO queue, and `.fifo` is appended where it is missing.
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
        """Return the URL of an existing queue, for example of a dead-letter queue."""
        url: str = self.client.get_queue_url(QueueName=name)["QueueUrl"]
        return url

    def counts(self, queue_url: str) -> dict[str, int]:
        """Return the number of messages that are `visible`, `in_flight` and `delayed`."""
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
        """Delete every message of a queue, including those in flight."""
        self.client.purge_queue(QueueUrl=queue_url)

    @cached_property
    def client(self) -> Any:
        """The botocore client for this server."""
        return make_client(self.client_options)

    def _listener(self) -> socket.socket:
        """Return a listening socket for the child."""
        # The parent listens before the child runs: nobody else can get the port in between, and a
        # first request waits instead of failing.
        return socket.create_server(("127.0.0.1", self.port), backlog=128)

    def _spawn(self, listener: socket.socket, output: int) -> "subprocess.Popen[bytes]":
        inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
        variables = {
            "GATEWAY_PORT": str(self.port),
            ACCESS_KEY_VARIABLE: self.client_options["aws_access_key_id"],
        }
        guard_file = Path(sqs_guard.__file__).resolve()
        arguments = [str(listener.fileno()), self._authority, str(guard_file)]
        return subprocess.Popen(
            # -P: a module in the current directory must not replace one that MiniStack imports.
            [sys.executable, "-P", "-c", _SERVER_SCRIPT, *arguments],
            env=inherited | _MINISTACK_VARIABLES | variables,
            cwd=tempfile.gettempdir(),
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            # Ctrl+C at a terminal would reach the child too. The parent stops it in order instead.
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
    """Return a synchronous SQS client of botocore, made with these options."""
    from botocore.session import get_session

    return get_session().create_client("sqs", **options)


def queue_arn(queue_url: str, region: str = REGION) -> str:
    """Return the ARN of the queue at a URL."""
    account, name = queue_url.rsplit("/", 2)[1:]
    return f"arn:aws:sqs:{region}:{account}:{name}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
