"""The session and the configuration of a client. Importing this takes a quarter of a second."""

import asyncio
import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import get_session
from botocore.loaders import create_loader

from ...core.batching import MAX_IN_FLIGHT
from ...threads import make_thread
from .resolver import TimeLimitedResolver

logger = logging.getLogger("lambda_tasks")

CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5

USER_AGENT: Final = "lambda_tasks"
"""A fixed user agent: botocore would compose one for every request, a seventh of its cost."""


CREDENTIALS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def warm_up(service: str) -> None:
    """Load what a client needs by opening one, to which nothing is sent, and closing it again.

    No thread and no socket is left: a server may fork after this.
    """
    # On a thread, because an ASGI server may load the project in its event loop.
    opening = make_thread(_open_and_close, service, name="lambda_tasks-warm")
    opening.start()
    opening.join()


def _open_and_close(service: str) -> None:
    options = {"region_name": "us-east-1", **dict.fromkeys(CREDENTIALS[:2], "none")}

    async def open_and_close(session: Any) -> None:
        async with session.create_client(service, **client_options(options, waits_s=0)):
            pass

    try:
        asyncio.run(open_and_close(new_session(service, options)))
    except Exception as error:  # the first call raises it, too
        logger.warning("The client of AWS could not be loaded at the start: %s", error)


def new_session(service: str, options: Mapping[str, Any]) -> Any:
    """Return a session that has loaded a service's description, with the options' credentials."""
    session = get_session()
    loader = _data_loader(session.get_config_variable("data_path"))
    session.register_component("data_loader", loader)
    loader.load_service_model(service, "service-2")
    if all(options.get(name) is not None for name in CREDENTIALS[:2]):
        session.set_credentials(*(options.get(name) for name in CREDENTIALS))
    return session


@cache
def _data_loader(data_path: str | None) -> Any:
    """Return the loader of all sessions: each would read the descriptions of services anew.

    That takes 70 ms, in which no other thread of the process runs. Forked children have it, too.
    """
    return create_loader(data_path)


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
