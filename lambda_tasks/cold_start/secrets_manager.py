"""The client for AWS Secrets Manager: versions of secrets, many of which are fetched at once."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

from ..errors import SecretUnavailable
from .aws_client import MAX_CONCURRENT_REQUESTS, make_clients

ARN_SEGMENTS: Final = 7
"""The segments of arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME. A name has no colon."""


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version of one secret; the current version where neither id nor stage is given."""

    arn: str
    version_id: str = ""
    """The version's id; empty for any."""
    version_stage: str = ""
    """The version's stage, such as AWSPREVIOUS; empty for any."""

    @classmethod
    def from_arn(
        cls, segments: list[str], *, version_id: str = "", version_stage: str = ""
    ) -> Self:
        """Return the version of the secret with this ARN, which is split at its colons.

        Raises ValueError, without the segments, if they are not the ARN of a secret.
        """
        match segments:
            case ["arn", partition, "secretsmanager", region, account, "secret", name] if all(
                (partition, region, account, name)
            ):
                return cls(":".join(segments), version_id, version_stage)
        raise ValueError("it does not begin with arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME")

    @property
    def region(self) -> str:
        """The AWS region that holds the secret."""
        return self.arn.split(":")[3]

    def request(self) -> dict[str, str]:
        """Return the parameters of GetSecretValue."""
        parameters = {"SecretId": self.arn}
        if self.version_id:
            parameters["VersionId"] = self.version_id
        if self.version_stage:
            parameters["VersionStage"] = self.version_stage
        return parameters


def fetch(wanted: Mapping[SecretVersion, str]) -> dict[SecretVersion, str]:
    """Fetch versions of secrets at the same time, each once; return their texts.

    `wanted` maps each version to the variable that refers to it, for errors. Raises
    SecretUnavailable with AWS's reason, and ValueError for a binary secret.
    """
    if not wanted:
        return {}
    clients = make_clients("secretsmanager", {version.region for version in wanted})
    with ThreadPoolExecutor(max_workers=min(len(wanted), MAX_CONCURRENT_REQUESTS)) as threads:
        texts = threads.map(lambda item: _fetch_one(clients[item[0].region], *item), wanted.items())
        return dict(zip(wanted, texts, strict=True))


def parse_object(text: str, *, variable: str) -> dict[str, Any]:
    """Return a secret as a JSON object. Raises ValueError, without the text, if it is not one."""
    try:
        content = json.loads(text)
    except ValueError:
        raise ValueError(f"{variable}: the secret's value is not JSON.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{variable}: the secret's value is not a JSON object.")
    return content


def _fetch_one(client: Any, version: SecretVersion, variable: str) -> str:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        answer = client.get_secret_value(**version.request())
    except (BotoCoreError, ClientError) as error:
        raise SecretUnavailable(f"{variable}: {error}") from error
    text = answer.get("SecretString")
    if text is None:
        raise ValueError(f"{variable}: the secret is binary. Store it as text (SecretString).")
    return str(text)
