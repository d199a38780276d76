"""Moto, as a server on loopback: the secrets, parameters and Batch that MiniStack has less of."""

import json
from functools import cached_property
from typing import Any, Self
from urllib.request import Request, urlopen

from botocore.session import get_session

REGION = "us-east-1"
CREDENTIALS: dict[str, Any] = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


class Moto:
    """Use it as a context manager. `env` is what lets another process find it."""

    def __enter__(self) -> Self:
        # Here, because it takes a second to import.
        from botocore.handlers import BUILTIN_HANDLERS
        from moto.core.models import botocore_stubber
        from moto.server import ThreadedMotoServer

        # A server needs no hook in the clients of this process, and a lean client steps aside for
        # whoever has one.
        BUILTIN_HANDLERS[:] = [each for each in BUILTIN_HANDLERS if each[1] is not botocore_stubber]
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint_url = f"http://{host}:{port}"
        self.env = {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER": self.endpoint_url,
            "AWS_ENDPOINT_URL_BATCH": self.endpoint_url,
            "AWS_ENDPOINT_URL_SSM": self.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
        }
        # Jobs are kept and not run: there is no Docker, and the tests run their commands.
        self._post("/moto-api/config", {"batch": {"use_docker": False}})
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in ("secrets", "batch", "parameters"):
            if name in self.__dict__:
                getattr(self, name).close()
        self._server.stop()

    @cached_property
    def secrets(self) -> Any:
        return self._client("secretsmanager")

    @cached_property
    def batch(self) -> Any:
        return self._client("batch")

    @cached_property
    def parameters(self) -> Any:
        return self._client("ssm")

    def create_secret(self, name: str, value: str) -> tuple[str, str]:
        """Its ARN and the id of its version."""
        made = self.secrets.create_secret(Name=name, SecretString=value)
        return made["ARN"], made["VersionId"]

    def create_job_queue(self, name: str) -> None:
        """A queue, and a job definition of the same name."""
        roles = self._client("iam")
        role = roles.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        roles.close()
        environment = self.batch.create_compute_environment(
            computeEnvironmentName=name, state="ENABLED", type="UNMANAGED", serviceRole=role
        )
        self.batch.create_job_queue(
            jobQueueName=name,
            state="ENABLED",
            priority=1,
            computeEnvironmentOrder=[
                {"order": 1, "computeEnvironment": environment["computeEnvironmentArn"]}
            ],
        )
        self.batch.register_job_definition(
            jobDefinitionName=name,
            type="container",
            containerProperties={"image": "mysite", "vcpus": 1, "memory": 512},
        )

    def jobs(self, queue: str) -> list[dict[str, Any]]:
        """The jobs of a queue, in full."""
        states = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED")
        answers = [self.batch.list_jobs(jobQueue=queue, jobStatus=state) for state in states]
        ids = [job["jobId"] for answer in answers for job in answer["jobSummaryList"]]
        found: list[dict[str, Any]] = self.batch.describe_jobs(jobs=ids)["jobs"] if ids else []
        return found

    def _client(self, service: str) -> Any:
        return get_session().create_client(
            service, endpoint_url=self.endpoint_url, region_name=REGION, **CREDENTIALS
        )

    def _post(self, path: str, content: Any) -> None:
        request = Request(self.endpoint_url + path, data=json.dumps(content).encode())
        with urlopen(request) as answer:
            assert answer.status < 300
