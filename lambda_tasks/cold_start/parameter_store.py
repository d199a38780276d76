"""The client for AWS Systems Manager Parameter Store: parameters by name and by path, decrypted."""

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from ..errors import SecretUnavailable
from .aws_client import MAX_CONCURRENT_REQUESTS, make_clients

T = TypeVar("T")

MAX_PAGES: Final = 100
"""The most pages of a path, of ten parameters each. More are most likely not meant."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter, as it was stored."""

    name: str
    value: str = field(repr=False)


def fetch(
    names: Collection[str], paths: Collection[str], *, variable: str
) -> tuple[dict[str, Parameter], dict[str, list[Parameter]]]:
    """Return parameters by their names, and those below paths by path, all at the same time.

    A name may be an ARN, and have a version or a label. Raises SecretUnavailable with AWS's reason
    for each name and path that it does not return.
    """
    (client,) = make_clients("ssm", [None]).values()
    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as threads:
        # A request for each name: the answer for several does not tell which version is which.
        named = threads.map(lambda name: _try(_fetch_one, client, name), sorted(names))
        below = threads.map(lambda path: _try(_fetch_path, client, path), sorted(paths))
        found_named = dict(zip(sorted(names), named, strict=True))
        found_below = dict(zip(sorted(paths), below, strict=True))
    found = [*found_named.items(), *found_below.items()]
    failed = [f"{variable}: {key}: {each}" for key, each in found if isinstance(each, Exception)]
    if failed:
        raise SecretUnavailable("\n".join(failed))
    return found_named, found_below  # type: ignore[return-value]


def _try(fetch: Callable[[Any, str], T], client: Any, key: str) -> T | Exception:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return fetch(client, key)
    except (BotoCoreError, ClientError, SecretUnavailable) as error:
        return error


def _fetch_one(client: Any, name: str) -> Parameter:
    answer = client.get_parameter(Name=name, WithDecryption=True)["Parameter"]
    return Parameter(answer["Name"], answer["Value"])


def _fetch_path(client: Any, path: str) -> list[Parameter]:
    found: list[Parameter] = []
    request: dict[str, Any] = {"Path": path, "Recursive": True, "WithDecryption": True}
    for _ in range(MAX_PAGES):
        answer = client.get_parameters_by_path(**request)
        found += [Parameter(each["Name"], each["Value"]) for each in answer["Parameters"]]
        if not answer.get("NextToken"):
            return found
        request["NextToken"] = answer["NextToken"]
    raise SecretUnavailable(f"it has over {len(found):,} parameters. Name a path with fewer.")
