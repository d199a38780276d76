"""The first page: facts, throughput, waits and runs, errors, tasks, what is due next."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from ..core.figures import Range
from ..operations import figures
from ..operations.figures import HEAT_S, ErrorGroup, Series, TaskFigures
from . import charts, doctor_page, facts, pages, queue_pages, words
from .charts import Mark, Part


def context(request: HttpRequest, site: str, *, with_payloads: bool) -> dict[str, Any]:
    """Return what the template shows."""
    chosen = pages.range_of(request, Range.LAST_HOUR)
    found = figures.overview(chosen)
    now, dead = found.facts.now, queue_pages.dead_letters()
    return {
        "facts": facts.shown(found.facts, site, dead_letters=dead),
        "ranges": pages.ranges(request, chosen),
        "range": chosen.value,
        "counted": words.ago(found.facts.counted_s),
        "is_counted_late": facts.is_late(found.facts.counted_s),
        "throughput": throughput(found.series),
        "times": times(found.series),
        "heat": heat(found.series),
        "total": found.series.total,
        "queues": queue_pages.rows(found.queues, dead),
        "may_view_queues": pages.may_view(request, "queuestate"),
        **doctor_page.shown(request, found.report),
        "errors": error_rows(found.errors, now, with_payloads=with_payloads),
        "still_broken": found.facts.still_broken,
        "may_replay": pages.may(request, "replay", "taskrecord"),
        "slowest": [task_row(each) for each in found.slowest],
        "costliest": [task_row(each) for each in found.costliest],
        "next_due": found.next_due if pages.may_view(request, "schedulestate") else [],
    }


def throughput(series: Series) -> SafeString:
    """Draw how many runs ended, and how."""
    parts = [
        Part(gettext("Succeeded"), "lt-ok", [each.outcomes.succeeded for each in series.moments]),
        Part(gettext("Retried"), "lt-retried", [each.outcomes.retried for each in series.moments]),
        Part(
            gettext("Failed"),
            "lt-failed",
            [each.outcomes.failed for each in series.moments],
            is_hatched=True,
        ),
        Part(
            gettext("Cancelled"),
            "lt-cancelled",
            [each.outcomes.cancelled for each in series.moments],
        ),
    ]
    total = series.total.outcomes
    said = gettext("%(total)s runs have ended, %(failed)s of them have failed.")
    return charts.stacked_bars(
        gettext("Throughput"),
        said % {"total": words.number(total.total), "failed": words.number(total.failed)},
        _labels(series),
        parts,
        marks=list(_marks(series)),
    )


def times(series: Series) -> SafeString:
    """Draw how long calls waited, and how long they ran."""
    moments = series.moments
    parts = [
        Part(gettext("Wait, median"), "lt-1", [each.wait.p50_s for each in moments]),
        Part(gettext("Wait, 95 %"), "lt-2", [each.wait.p95_s for each in moments]),
        Part(gettext("Run, median"), "lt-3", [each.run.p50_s for each in moments]),
        Part(gettext("Run, 95 %"), "lt-4", [each.run.p95_s for each in moments]),
    ]
    total = series.total
    said = gettext("Of 20 calls, 19 have waited %(wait)s at most, and run %(run)s at most.")
    return charts.lines(
        gettext("Wait and run"),
        said
        % {
            "wait": words.span_or_nothing(total.wait.p95_s),
            "run": words.span_or_nothing(total.run.p95_s),
        },
        _labels(series),
        parts,
        unit="s",
        marks=list(_marks(series)),
    )


def heat(series: Series) -> SafeString:
    """Draw how many calls waited for how long, and when: a stuck queue stands out."""
    rows = [gettext("below %s") % words.span(HEAT_S[0])]
    rows += [
        gettext("%(low)s to %(high)s") % {"low": words.span(low), "high": words.span(high)}
        for low, high in pairwise(HEAT_S)
    ]
    rows.append(gettext("%s and more") % words.span(HEAT_S[-1]))
    counts = [[each.waits.get(number, 0) for each in series.moments] for number in range(len(rows))]
    return charts.heat_map(
        gettext("How long calls wait"),
        gettext("The darker a cell, the more calls have waited for so long before they began."),
        _labels(series),
        rows,
        counts,
    )


def error_rows(
    errors: Sequence[ErrorGroup], now: Any, *, with_payloads: bool
) -> list[dict[str, Any]]:
    """Return what the rows of a list of errors show; the text only to who may see payloads."""
    return [
        {
            "id": each.id,
            "name": each.exception_class.rpartition(".")[2],
            "exception_class": each.exception_class,
            "message": each.message if with_payloads else "",
            "raised_in": each.raised_in,
            "tasks": each.task_names,
            "failed": words.number(each.failed),
            "retried": words.number(each.retried),
            "still_broken": each.still_broken,
            "first_seen": each.first_seen,
            "last_seen": each.last_seen,
            "first_ago": words.since(each.first_seen, now),
            "last_ago": words.since(each.last_seen, now),
            "releases": each.releases,
            "trend": charts.spark_line(gettext("Failures"), each.trend, css="lt-failed"),
        }
        for each in errors
    ]


def task_row(task: TaskFigures) -> dict[str, Any]:
    """Return what a row of a list of tasks shows."""
    return {
        "name": task.name,
        "ended": words.number(task.outcomes.total),
        "failure_rate": words.share(task.outcomes.failure_rate),
        "has_failed": bool(task.outcomes.failed),
        "p50": words.span_or_nothing(task.run.p50_s),
        "p95": words.span_or_nothing(task.run.p95_s),
        "wait": words.span_or_nothing(task.wait.p95_s),
        "total": words.span_or_nothing(task.run.total_s),
        "share": words.share(task.share),
    }


def _labels(series: Series) -> list[str]:
    return [words.moment_label(each.start, series.range.length) for each in series.moments]


def _marks(series: Series) -> Iterator[Mark]:
    """Yield the releases, each where the moment is in which it first ran."""
    for release in series.releases:
        before = [n for n, each in enumerate(series.moments) if each.start <= release.first_seen]
        if before:
            yield Mark(before[-1], gettext("Release %s") % release.name)
