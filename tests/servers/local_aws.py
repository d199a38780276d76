"""The part of AWS that a deployment needs, as MiniStack has it on a laptop."""

import sys
from typing import Any

from botocore.session import get_session

from tests.servers.process import ServerProcess, free_port, listens

REGION = "us-east-1"
ACCOUNT = "000000000000"
CREDENTIALS: dict[str, Any] = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}

_SCRIPT = """
import asyncio, sys
from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app
from ministack.services import lambda_svc
# There is no Docker to run an image: whoever wants messages delivered does it by the mapping.
lambda_svc._ensure_poller = lambda: None
config = Config()
config.bind = ["127.0.0.1:" + sys.argv[1]]
config.loglevel = "ERROR"
asyncio.run(serve(app, config))
"""


class LocalAws(ServerProcess):
    """MiniStack with SQS, Lambda, Scheduler, CloudWatch, IAM and CloudFormation.

    `client_options` are the arguments of an AWS client, or the value of LAMBDA_TASKS_AWS. Mappings
    are kept, and deliver nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        self.client_options = {
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            **CREDENTIALS,
        }

    def client(self, service: str) -> Any:
        """A botocore client of a service."""
        return get_session().create_client(service, **self.client_options)

    def _run(self) -> None:
        self._spawn(
            [
                "/usr/bin/env",
                *_environment(self.port),
                sys.executable,
                "-P",
                "-c",
                _SCRIPT,
                self.port,
            ]
        )
        self._wait_until(self._answers)

    def _answers(self) -> bool:
        return listens(self.port)


def _environment(port: int) -> list[str]:
    return [
        f"{name}={value}"
        for name, value in {
            "GATEWAY_PORT": port,
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "LOG_LEVEL": "ERROR",
            "SFTP_ENABLED": 0,
            "IOT_MTLS_ENABLED": 0,
            "DOCKER_HOST": "unix:///nonexistent",
        }.items()
    ]
