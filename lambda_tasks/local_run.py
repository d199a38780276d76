"""One run of `manage.py lambda_tasks dev`, as the environment of what it starts tells it."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Final, Self

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from .core.signature import MIN_KEY_CHARS

VARIABLE: Final = "LAMBDA_TASKS_LOCAL_SQS"
"""The address of an SQS that stands in for all of AWS, or "" where the table does."""

KEYS_VARIABLE: Final = "LAMBDA_TASKS_LOCAL_SQS_KEYS"
"""The keys of the run as JSON. Django's page of an error shows the environment of its development
server, but no variable with KEY in its name."""

REGION: Final = "us-east-1"
ACCOUNT: Final = "000000000000"

_LOOPBACK: Final = re.compile(r"http://127(\.[0-9]{1,3}){3}:[0-9]{1,5}")
"""An address and no name, which could be another's."""


@dataclass(frozen=True, slots=True)
class RunKeys:
    """What the local SQS answers to, and what signs the messages of a project without keys."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    signing_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LocalRun:
    """`endpoint_url` is the address of its SQS; without `keys` the table is the queue."""

    endpoint_url: str = ""
    keys: RunKeys | None = None

    @classmethod
    def from_environment(cls) -> Self | None:
        """The run that this process belongs to. None where there is no such variable.

        Raises ImproperlyConfigured where it must not be obeyed: all messages would go there.
        """
        endpoint_url = os.environ.get(VARIABLE)
        if endpoint_url is None:
            return None
        if not settings.DEBUG:
            raise ImproperlyConfigured(
                f"{VARIABLE} is set, which `manage.py lambda_tasks dev` does for what it starts, "
                "and DEBUG is False: no message would go to its queue. Take it out of the "
                "environment; on a laptop set DEBUG = True."
            )
        if not endpoint_url:
            return cls()
        if not _LOOPBACK.fullmatch(endpoint_url):
            raise ImproperlyConfigured(
                f"{VARIABLE} is no address on loopback like http://127.0.0.1:4566. Take it out of "
                "the environment; `manage.py lambda_tasks dev` sets it for what it starts."
            )
        return cls(endpoint_url, _keys(os.environ.get(KEYS_VARIABLE, "")))

    def environment(self) -> dict[str, str]:
        """The variables for what the run starts."""
        keys = {} if self.keys is None else {KEYS_VARIABLE: json.dumps(asdict(self.keys))}
        return {VARIABLE: self.endpoint_url} | keys

    @property
    def aws(self) -> Mapping[str, Any]:
        """Its LAMBDA_TASKS_AWS."""
        if self.keys is None:
            return {"region_name": REGION}
        return {
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
        # The value stays out of the message.
        raise ImproperlyConfigured(
            f"{KEYS_VARIABLE} does not hold the keys of the local SQS. Take it and {VARIABLE} out "
            "of the environment; `manage.py lambda_tasks dev` sets them for what it starts."
        )
    return keys


def _is_key(value: object) -> bool:
    return isinstance(value, str) and len(value) >= MIN_KEY_CHARS
