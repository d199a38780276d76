"""The client for AWS Secrets Manager: versions of secrets, many of which are fetched at once."""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar, TypeVarTuple

from ..errors import SecretUnavailable

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

ARN_SEGMENTS: Final = 7
"""The segments of arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME. A name has no colon."""

MAX_CONCURRENT_REQUESTS: Final = 16
"""The number of GetSecretValue requests at a time, and of connections to each region."""

CONNECT_TIMEOUT_S: Final = 2
"""Seconds to connect to Secrets Manager, in each of three attempts."""

READ_TIMEOUT_S: Final = 5
"""Seconds for Secrets Manager to answer, in each of three attempts."""


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
    clients = _clients({version.region for version in wanted})
    with ThreadPoolExecutor(max_workers=min(len(wanted), MAX_CONCURRENT_REQUESTS)) as threads:
        texts = threads.map(lambda item: _fetch_one(clients[item[0].region], *item), wanted.items())
        return dict(zip(wanted, texts, strict=True))


def apply_to_all(function: Callable[[*Ts], R], arguments: Iterable[tuple[*Ts]]) -> list[R]:
    """Return the results of a function. Raises ValueError with the reasons of all its ValueErrors.

    Each cold start takes a deployment: whoever has several mistakes should see all of them.
    """
    results, reasons = [], []
    for each in arguments:
        try:
            results.append(function(*each))
        except ValueError as reason:
            reasons.append(str(reason))
    if reasons:
        raise ValueError("\n".join(reasons))
    return results


def parse_object(text: str, *, variable: str) -> dict[str, Any]:
    """Return a secret as a JSON object. Raises ValueError, without the text, if it is not one."""
    try:
        content = json.loads(text)
    except ValueError:
        raise ValueError(f"{variable}: the secret's value is not JSON.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{variable}: the secret's value is not a JSON object.")
    return content


def _clients(regions: Iterable[str]) -> dict[str, Any]:
    from botocore.config import Config
    from botocore.session import get_session

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=MAX_CONCURRENT_REQUESTS,
        parameter_validation=False,  # AWS validates them anyway.
        retries={"total_max_attempts": 3, "mode": "standard"},
    )
    # Clients are made here, as they are safe for threads and their session is not.
    session = get_session()
    return {
        region: session.create_client("secretsmanager", region_name=region, config=config)
        for region in regions
    }


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
