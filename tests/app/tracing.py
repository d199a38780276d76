"""Exporters and spans for tests of traces; without OpenTelemetry, none."""

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

try:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import (
        SimpleSpanProcessor,
        SpanExporter,
        SpanExportResult,
    )
except ImportError:
    SpanExporter = object  # type: ignore[assignment, misc]

Span = dict[str, Any]


class FileExporter(SpanExporter):  # pyright: ignore[reportGeneralTypeIssues]
    """Append each span to a file as JSON, as spans of all processes come there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        with self.path.open("a") as file:
            for each in spans:
                file.write(json.dumps(_shown(each)) + "\n")
        return SpanExportResult.SUCCESS

    def read(self) -> list[Span]:
        return [json.loads(each) for each in self.path.read_text().splitlines()]


class ListExporter(SpanExporter):  # pyright: ignore[reportGeneralTypeIssues]
    """Keep each span of this process: its event loop must not write to files."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def export(self, spans: "Sequence[ReadableSpan]") -> "SpanExportResult":
        self.spans += map(_shown, spans)
        return SpanExportResult.SUCCESS


def _shown(span: "ReadableSpan") -> Span:
    assert span.context is not None
    assert span.start_time is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{span.context.trace_id:032x}",
        "id": f"{span.context.span_id:016x}",
        "parent": None if span.parent is None else f"{span.parent.span_id:016x}",
        "links": [f"{each.context.span_id:016x}" for each in span.links],
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
        "exceptions": [(each.attributes or {})["exception.type"] for each in span.events],
        "started_s_ago": time.time() - span.start_time / 1e9,
    }


_providers: "list[TracerProvider]" = []


def provider_of(exporter: FileExporter | ListExporter) -> "TracerProvider":
    """Return a provider that exports each span at once, and that span() uses from now on."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    _providers.append(provider)
    return provider


def span(name: str) -> AbstractContextManager[object]:
    """Open a span of the project's own; none where nobody traces."""
    if not _providers:
        return nullcontext()
    return _providers[-1].get_tracer("shop").start_as_current_span(name)


def is_current() -> bool:
    """Return whether the code that calls it is in a span."""
    return trace.get_current_span().is_recording()


def forget() -> None:
    """Let span() open none any more."""
    _providers.clear()
