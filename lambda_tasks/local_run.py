"""The environment variables by which `manage.py lambda_tasks dev` configures its processes."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Final, Self

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .core.signature import MIN_KEY_CHARS

SQS_VARIABLE: Final = "LAMBDA_TASKS_LOCAL_SQS"
"""The variable with the address of the SQS in place of AWS; "" where the table is the queue."""

KEYS_VARIABLE: Final = "LAMBDA_TASKS_LOCAL_SQS_KEYS"
"""The variable with the keys of the run as JSON.

Django's error page shows the environment of the development server, but hides variables with KEY in
their names.
"""

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"

_LOOPBACK: Final = re.compile(r"http://127(\.[0-9]{1,3}){3}:[0-9]{1,5}")
"""Addresses on loopback. A host name is refused, as it could resolve to another machine."""


@dataclass(frozen=True, slots=True)
class RunKeys:
    """The keys of a local run."""

    access_key: str = field(repr=False)
    """The only access key that the local SQS accepts."""
    secret_key: str = field(repr=False)
    signing_key: str = field(repr=False)
    """The key that signs the messages of a project without signing keys."""


@dataclass(frozen=True, slots=True)
class LocalRun:
    """One run of `manage.py lambda_tasks dev`."""

    endpoint_url: str = ""
    """The address of the local SQS, "" without one."""
    keys: RunKeys | None = None
    """The keys of the local SQS. Without them the table is the queue."""

    @classmethod
    def from_environment(cls) -> Self | None:
        """Return the run that this process belongs to, or None without the variable.

        Raises ImproperlyConfigured where the variable is set in production or has no address on
        loopback: all messages would be sent there.
        """
        endpoint_url = os.environ.get(SQS_VARIABLE)
        if endpoint_url is None:
            return None
        if not settings.DEBUG:
            raise ImproperlyConfigured(
                f"{SQS_VARIABLE} is set, as in the processes of `manage.py lambda_tasks dev`, and "
                "DEBUG is False: no message would reach its queue. Remove the variable from the "
                "environment; on a laptop set DEBUG = True."
            )
        if not endpoint_url:
            return cls()
        if not _LOOPBACK.fullmatch(endpoint_url):
            raise ImproperlyConfigured(
                f"{SQS_VARIABLE} is not an address on loopback like http://127.0.0.1:4566. Remove "
                "it from the environment; `manage.py lambda_tasks dev` sets it for its processes."
            )
        return cls(endpoint_url, _keys(os.environ.get(KEYS_VARIABLE, "")))

    def environment(self) -> dict[str, str]:
        """Return the environment variables for the processes that the run starts."""
        keys = {} if self.keys is None else {KEYS_VARIABLE: json.dumps(asdict(self.keys))}
        return {SQS_VARIABLE: self.endpoint_url} | keys

    @property
    def aws(self) -> Mapping[str, Any]:
        """The value of LAMBDA_TASKS_AWS in the run."""
        if self.keys is None:
            return {"region_name": REGION}
        return {
            # Named here, so that AWS_ENDPOINT_URL leads no message of the run elsewhere.
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": self.keys.access_key,
            "aws_secret_access_key": self.keys.secret_key,
        }


def _keys(text: str) -> RunKeys:
    try:
        keys = RunKeys(**json.loads(text))
    except (TypeError, ValueError):
        keys = None
    if keys is None or not all(_is_key(each) for each in astuple(keys)):
        # The message leaves the value out: it is a secret.
        raise ImproperlyConfigured(
            f"{KEYS_VARIABLE} does not hold the keys of the local SQS. Remove it and "
            f"{SQS_VARIABLE} from the environment; `manage.py lambda_tasks dev` sets them for its "
            "processes."
        )
    return keys


def _is_key(value: object) -> bool:
    return isinstance(value, str) and len(value) >= MIN_KEY_CHARS
