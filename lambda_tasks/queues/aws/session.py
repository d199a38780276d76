"""The session and the configuration of a client. Importing this takes a quarter of a second."""

import os
from collections.abc import Mapping
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session

from ...core.batching import MAX_IN_FLIGHT
from .resolver import TimeLimitedResolver

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5

USER_AGENT: Final = "lambda_tasks"
"""A fixed user agent: botocore would compose one for every request, a seventh of its cost."""


CREDENTIALS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def new_session(service: str, options: Mapping[str, Any]) -> Any:
    """Return a session that has loaded a service's description, with the options' credentials."""
    session = get_session()
    session.get_component("data_loader").load_service_model(service, "service-2")
    if all(options.get(name) is not None for name in CREDENTIALS[:2]):
        session.set_credentials(*(options.get(name) for name in CREDENTIALS))
    return session


def client_options(options: Mapping[str, Any], *, waits_s: float) -> dict[str, Any]:
    """Return the options for create_client(). See AwsClient."""
    # None, like a missing environment variable, means that botocore chooses.
    given = {name: value for name, value in options.items() if value is not None}
    if all(name in given for name in CREDENTIALS[:2]):
        given = {name: value for name, value in given.items() if name not in CREDENTIALS}
    return given | {"config": _make_config(given.get("config"), waits_s)}


def _make_config(given: Any, waits_s: float) -> Any:
    config = AioConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S + waits_s,
        max_pool_connections=MAX_IN_FLIGHT,
        # The dispatcher retries each entry. This second attempt is only for a connection that
        # broke while the process was frozen.
        retries={"total_max_attempts": 2, "mode": "standard"},
        parameter_validation=False,
        user_agent=USER_AGENT,
    )
    if getattr(given, "http_session_cls", AIOHTTPSession) is AIOHTTPSession:
        config = config.merge(AioConfig(connector_args={"resolver": TimeLimitedResolver()}))
    return config if given is None else config.merge(given)


def has_configured_endpoint(session: Any, service: str) -> bool:
    """Return whether the environment or AWS's configuration files name a service's endpoint.

    botocore uses it for a client without the option endpoint_url ("Service-specific endpoints",
    AWS SDKs and Tools Reference Guide).
    """
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return False
    profile = session.get_scoped_config()
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    return bool(
        os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
        or os.environ.get("AWS_ENDPOINT_URL")
        or services.get(service, {}).get("endpoint_url")
        or profile.get("endpoint_url")
    )
