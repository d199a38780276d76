"""References to secrets in AWS Secrets Manager, and how to fetch many of them at once."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

from ..errors import SecretUnavailable

ARN_SEGMENTS: Final = 7
"""arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME; a name holds no colon."""

AT_ONCE: Final = 16
CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One version of one secret; the current one where neither id nor stage is given."""

    arn: str
    version_id: str = ""
    version_stage: str = ""

    @classmethod
    def of_arn(cls, segments: list[str], *, version_id: str = "", version_stage: str = "") -> Self:
        """Raises ValueError, without the value, for segments that are no secret's ARN."""
        match segments:
            case ["arn", partition, "secretsmanager", region, account, "secret", name] if all(
                (partition, region, account, name)
            ):
                return cls(":".join(segments), version_id, version_stage)
        raise ValueError("it does not begin with arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME")

    @property
    def region(self) -> str:
        """Where it is kept."""
        return self.arn.split(":")[3]

    def request(self) -> dict[str, str]:
        """The parameters of GetSecretValue."""
        parameters = {"SecretId": self.arn}
        if self.version_id:
            parameters["VersionId"] = self.version_id
        if self.version_stage:
            parameters["VersionStage"] = self.version_stage
        return parameters


def fetch(wanted: Mapping[SecretVersion, str]) -> dict[SecretVersion, str]:
    """The texts of these, each requested once, all at the same time.

    `wanted` maps each to the variable that names it, for errors. Raises SecretUnavailable with
    AWS's reason.
    """
    if not wanted:
        return {}
    clients = _clients({version.region for version in wanted})
    with ThreadPoolExecutor(max_workers=min(len(wanted), AT_ONCE)) as threads:
        texts = threads.map(lambda item: _fetch_one(clients[item[0].region], *item), wanted.items())
        return dict(zip(wanted, texts, strict=True))


def parse_object(text: str, *, variable: str) -> dict[str, Any]:
    """The secret as a JSON object. Raises ValueError, without the text, where it is none."""
    try:
        content = json.loads(text)
    except ValueError:
        raise ValueError(f"{variable}: the secret's value is no JSON.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{variable}: the secret's value is no JSON object.")
    return content


def _clients(regions: Iterable[str]) -> dict[str, Any]:
    from botocore.config import Config
    from botocore.session import get_session

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=AT_ONCE,
        parameter_validation=False,  # AWS's own answer says as much
        retries={"total_max_attempts": 3, "mode": "standard"},
    )
    # A session is not safe to be used by several threads, its clients are.
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
        raise ValueError(f"{variable}: the secret is binary. Store a text.")
    return str(text)
