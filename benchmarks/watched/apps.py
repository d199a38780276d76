"""Watches every process of the project as BENCHMARK_WATCHING says, and sends nothing anywhere."""

import logging
import os
from collections.abc import Callable
from typing import Any

from django.apps import AppConfig


class WatchedConfig(AppConfig):
    name = "benchmarks.watched"
    label = "watched"

    def ready(self) -> None:
        _WATCHING.get(os.environ.get("BENCHMARK_WATCHING", ""), _nothing)()


def _nothing() -> None:
    pass


def _log(formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    handler.setFormatter(formatter)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _log_text() -> None:
    _log(logging.Formatter("%(levelname)s %(message)s"))


def _log_json() -> None:
    from lambda_tasks.logging import JSONFormatter

    _log(JSONFormatter())


def _connect() -> None:
    from lambda_tasks import hooks

    hooks.started.connect(_look)
    hooks.ended.connect(_look)


def _look(event: object) -> None:
    pass


def _trace() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from lambda_tasks.watching import opentelemetry

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
    opentelemetry.instrument(provider)


def _sentry() -> None:
    import sentry_sdk
    from sentry_sdk.transport import Transport

    from lambda_tasks.watching import sentry

    class NoTransport(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            pass

    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=NoTransport(), traces_sample_rate=1.0)
    sentry.instrument()


_WATCHING: dict[str, Callable[[], None]] = {
    "text": _log_text,
    "json": _log_json,
    "hooks": _connect,
    "traces": _trace,
    "sentry": _sentry,
}
