"""The servers that the whole run needs, started before Django reads its settings.

LAMBDA_TASKS_TEST_ENGINE chooses the database: postgresql (the default), pgbouncer (PostgreSQL
behind a pooler of transactions), sqlite or mysql. Where its server can't be had the run fails and
says why. LAMBDA_TASKS_TEST_WITHOUT names other servers, separated by commas, whose tests are
skipped where they can't be had.
"""

import json
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from lambda_tasks.local.sqs_server import LocalSqs
from tests.servers import ServerUnavailable
from tests.servers.mariadb import MariaDBServer
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer

engine = os.environ.get("LAMBDA_TASKS_TEST_ENGINE", "postgresql")

POOL_SIZE = 40
"""PgBouncer's connections to the database, more than a test's processes use."""

_running = ExitStack()
_header: list[str] = []
sqs = LocalSqs()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, Any, Any]:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    # A shell starts what runs in its background without it, and all that this run starts in turn.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _only_hands_out(early_config):
        return (yield)
    _running.enter_context(sqs)
    os.environ["LAMBDA_TASKS_TEST_QUEUE"] = sqs.create_queue("default")
    # Without the endpoint, which the queues' URLs tell: Batch has another.
    options = {name: each for name, each in sqs.client_options.items() if name != "endpoint_url"}
    os.environ["LAMBDA_TASKS_TEST_AWS"] = json.dumps(options)
    sqs.create_queue("default-other")
    try:
        databases = _running.enter_context(_databases())
    except ServerUnavailable as reason:
        _running.close()
        raise pytest.UsageError(
            f"There is no {engine}: {reason}\nTo run the tests without it: "
            "LAMBDA_TASKS_TEST_ENGINE=sqlite"
        ) from None
    _header.append(f"database: {engine}")
    if databases:
        os.environ["LAMBDA_TASKS_TEST_DATABASES"] = json.dumps(databases)
    return (yield)


def go_without() -> list[str]:
    """The names of the servers that may be missing."""
    default = "" if os.environ.get("CI") else "mariadb,pgbouncer,checkov,cdk,chromium"
    return os.environ.get("LAMBDA_TASKS_TEST_WITHOUT", default).split(",")


def _only_hands_out(config: pytest.Config) -> bool:
    """The process that gives tests to others, each of which has servers of its own."""
    is_one_of_them = "PYTEST_XDIST_WORKER" in os.environ
    return not is_one_of_them and bool(getattr(config.known_args_namespace, "numprocesses", 0))


def pytest_report_header() -> list[str]:
    return _header


def pytest_unconfigure() -> None:
    _running.close()


@contextmanager
def _databases() -> Iterator[dict[str, Any]]:
    """The DATABASES of the run; empty for SQLite, which the settings know by themselves."""
    if engine == "sqlite":
        yield {}
        return
    server: PostgresServer | MariaDBServer
    server = MariaDBServer() if engine == "mysql" else PostgresServer()
    with server:
        database = server.django_database("lambda_tasks_tests", create=False)
        if engine != "pgbouncer":
            yield {"default": database}
            return
        assert isinstance(server, PostgresServer)
        with PgBouncer(server, pool_size=POOL_SIZE) as pooler:
            yield {"default": pooler.pooled(database)}
