"""What the pages of queues show: how each stands, whether it is paused, and what has died."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from django.utils.translation import gettext

from .. import conf
from ..core.figures import Range
from ..operations import figures
from ..operations.dead_letter_counts import dead_letter_counts
from ..operations.figures import QueueFigures
from ..queues.sqs import SQSQueue
from . import charts, words

SETTINGS: Final = (
    "queue_name", "queue_url", "max_message_bytes", "job_queue_arn", "job_definition_arn",
    "max_timeout_s",
)  # fmt: skip
"""What a page shows of a queue's settings. Those of a project's own kinds may be secret."""

WAIT_S: Final = 0.5
"""Seconds that the first page of a process waits for the count of dead letters."""


def dead_letters() -> Mapping[str, int]:
    """Return the dead letters of each queue of which they are known."""
    return dead_letter_counts(wait_s=WAIT_S)


def rows(
    queues: Iterable[QueueFigures],
    dead: Mapping[str, int],
    n_wrong: Mapping[str, int] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Return what lists of queues show: how each stands, whether it is paused, and what has died.

    `n_wrong` is how much the doctor has found about each.
    """
    return [
        {
            **_row(each),
            "is_paused": each.is_paused,
            "dead": words.number(dead.get(each.name)),
            "has_dead": bool(dead.get(each.name)),
            "n_wrong": n_wrong.get(each.name, 0),
        }
        for each in queues
    ]


def _row(queue: QueueFigures) -> dict[str, Any]:
    counts, more = queue.counts, "" if queue.is_complete else "+"
    return {
        "name": queue.name,
        "waiting": words.number(counts.waiting) + more,
        "delayed": words.number(counts.delayed) + more,
        "running": words.number(counts.running),
        "stuck": counts.stuck,
        "oldest": words.span_or_nothing(counts.oldest_waiting_s),
        "ended": words.number(queue.outcomes.total),
        "failed": words.number(queue.outcomes.failed),
        "wait": words.span_or_nothing(queue.wait.p95_s),
        "throughput": charts.spark_line(gettext("Throughput"), queue.throughput),
    }


def one(name: str, range: Range) -> dict[str, Any]:
    """Return what the page of a queue shows."""
    queue = conf.current().queue(name)
    found = [each for each in figures.queues(range) if each.name == name]
    return {
        "queues": rows(found, dead_letters()),
        "settings": [(gettext("Kind"), type(queue).__qualname__), *_settings(queue)],
        "is_in_sqs": isinstance(queue, SQSQueue),
    }


def _settings(queue: Any) -> Iterable[tuple[str, str]]:
    """Yield what the settings say of a queue."""
    for name in SETTINGS:
        value = getattr(queue, name, None)
        if value is not None:
            yield name, str(value)
    if queue.rate is not None:
        yield "rate", gettext("one each %s") % words.span(queue.rate.interval_s)
