"""The clients of AWS at the cold start, before there are settings."""

from collections.abc import Iterable
from typing import Any, Final

MAX_CONCURRENT_REQUESTS: Final = 16
"""The number of requests at a time, and of connections to each region."""

CONNECT_TIMEOUT_S: Final = 2
"""Seconds to connect, in each of three attempts."""

READ_TIMEOUT_S: Final = 5
"""Seconds for AWS to answer, in each of three attempts."""


def make_clients(service: str, regions: Iterable[str | None]) -> dict[str | None, Any]:
    """Return a client of a service for each region; None is the region of this process."""
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
        region: session.create_client(service, region_name=region, config=config)
        for region in regions
    }
