"""The names of SQS queues: with the prefix of a deployment, and as URLs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

NAME: Final = re.compile(r"(?=.{1,80}$)[A-Za-z0-9_-]+(\.fifo)?")
"""What SQS takes for a name (CreateQueue, Amazon SQS API reference)."""

REGION: Final = re.compile(r"[a-z]+(-[a-z]+)+-\d+")

ACCOUNT: Final = re.compile(r"\d{12}")

REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
"""Lambda sets both; people set the second."""

ACCOUNT_VARIABLE: Final = "AWS_ACCOUNT_ID"


@dataclass(frozen=True, slots=True)
class SQSNames:
    """What makes a URL of the name of an SQS queue."""

    prefix: str = ""
    """What stands before each name."""
    region: str = ""
    account: str = ""
    endpoint_url: str = ""
    """The address of another SQS than AWS's; "" for AWS's own."""

    @classmethod
    def of(cls, prefix: str, options: Mapping[str, Any], environment: Mapping[str, str]) -> Self:
        """Return the names for the options of AWS's client and the environment.

        Both have what the client itself would read. Nothing is asked of AWS.
        """
        regions = [options.get("region_name"), *(environment.get(v) for v in REGION_VARIABLES)]
        accounts = [options.get("aws_account_id"), environment.get(ACCOUNT_VARIABLE)]
        endpoints = [
            options.get("endpoint_url"),
            environment.get("AWS_ENDPOINT_URL_SQS"),
            environment.get("AWS_ENDPOINT_URL"),
        ]
        return cls(
            prefix,
            *(str(next(filter(None, each), "")) for each in (regions, accounts, endpoints)),
        )

    def url(self, name: object) -> str:
        """Return the URL of a queue. Raises ValueError, with the fix, where it can't be known."""
        if not isinstance(name, str) or not NAME.fullmatch(self.prefix + name):
            with_prefix = f" With the prefix it is {self.prefix}{name}." if self.prefix else ""
            raise ValueError(
                "queue_name is the name of an SQS queue: up to 80 letters, digits, hyphens and "
                f"underscores; a FIFO queue's ends with .fifo.{with_prefix}"
            )
        if not REGION.fullmatch(self.region):
            raise ValueError(
                "A queue that is given by its name needs its region. Set region_name in "
                f"LAMBDA_TASKS_AWS, or {REGION_VARIABLES[0]}, or give its URL."
            )
        if not ACCOUNT.fullmatch(self.account):
            raise ValueError(
                "A queue that is given by its name needs its account. Set aws_account_id, of 12 "
                f"digits, in LAMBDA_TASKS_AWS, or {ACCOUNT_VARIABLE}, or give its URL."
            )
        return f"{self._address()}/{self.account}/{self.prefix}{name}"

    def _address(self) -> str:
        if self.endpoint_url:
            return self.endpoint_url.rstrip("/")
        in_china = ".cn" if self.region.startswith("cn-") else ""
        return f"https://sqs.{self.region}.amazonaws.com{in_china}"
