"""Metrics in CloudWatch's embedded metric format, where LAMBDA_TASKS_METRICS names a namespace.

They are lines of the log from which CloudWatch takes metrics, so that nothing is sent and nobody
waits. A batch has one line for each task and outcome in it, whose values are arrays. See
"Specification: Embedded metric format" of Amazon CloudWatch.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed

from .. import hooks
from ..conf import current
from . import IN_LAMBDA

SETTING: Final = "LAMBDA_TASKS_METRICS"

MAX_VALUES: Final = 100
"""The most values of one metric in a line (its specification)."""

COUNTED_AS: Final[Mapping[hooks.Ending, str]] = {
    "succeeded": "Successes",
    "continued": "Continuations",
    "failed": "Failures",
    "retried": "Retries",
    "lost": "Losses",
}
"""The metric of a queue that counts the attempts of an outcome."""

Values = Mapping[str, Any]


def follow_setting() -> None:
    """Write metrics while the setting names a namespace, also where override_settings does."""
    setting_changed.connect(_follow)
    _follow(setting=SETTING)


def _follow(*, setting: str, **_: object) -> None:
    if setting != SETTING:
        return
    is_on = getattr(settings, SETTING, None) is not None
    for hook, receiver in _RECEIVERS:
        if is_on:
            hook.connect(receiver)
        else:
            hook.disconnect(receiver)


def _write_batch(batch: hooks.BatchEnded) -> None:
    runs: defaultdict[tuple[str, str, hooks.Ending], list[hooks.BatchRun]] = defaultdict(list)
    for run in batch.runs:
        runs[run.task_name, run.queue, run.outcome].append(run)
    for alike in runs.values():
        for start in range(0, len(alike), MAX_VALUES):
            _write(*_of_runs(alike[start : start + MAX_VALUES]))
    for queue, count in batch.n_given_back.items():
        _write({"queue": queue or "unknown"}, [(["queue"], {"GivenBack": count})])


def _of_runs(runs: Sequence[hooks.BatchRun]) -> tuple[Values, list[tuple[list[str], Values]]]:
    """Return the dimensions of attempts of one task, queue and outcome, and their metrics."""
    first = runs[0]
    dimensions = {"task": first.task_name, "outcome": first.outcome, "queue": first.queue}
    measured: dict[str, Any] = {"Attempts": len(runs)}
    for name, of_run in (("Duration", "ran_s"), ("Wait", "waited_s")):
        values = [getattr(each, of_run) for each in runs]
        if known := [round(each * 1000, 3) for each in values if each is not None]:
            measured[name] = known
    counted = {COUNTED_AS[first.outcome]: len(runs)}
    if takeovers := sum(each.attempt > 1 for each in runs):
        counted["Takeovers"] = takeovers
    return dimensions, [
        (["task", "outcome"], measured),
        (["queue"], measured | counted),
    ]


def _write_relay(relay: hooks.Relayed) -> None:
    _write({}, [([], {"RelayBacklog": relay.n_due, "Relayed": relay.n_sent})])


def _write_tick(tick: hooks.Ticked) -> None:
    lag_ms = round(tick.lag_s * 1000, 3)
    _write({}, [([], {"TickLag": lag_ms, "Scheduled": tick.n_scheduled})])


_RECEIVERS: Final[Sequence[tuple[hooks.Hook[Any], Any]]] = (
    (hooks.batch_ended, _write_batch),
    (hooks.relayed, _write_relay),
    (hooks.ticked, _write_tick),
)

IN_MILLISECONDS: Final = frozenset({"Duration", "Wait", "TickLag"})


def _write(dimensions: Values, metrics: Sequence[tuple[list[str], Values]]) -> None:
    namespace = current().metrics
    if namespace is None:
        return
    values = {name: value for _, of_set in metrics for name, value in of_set.items()}
    directives = [
        {"Namespace": namespace, "Dimensions": [names], "Metrics": list(_definitions(of_set))}
        for names, of_set in metrics
    ]
    about = {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": directives}
    line = json.dumps({"_aws": about, **dimensions, **values}, separators=(",", ":"))
    # Elsewhere the standard output belongs to what a command prints.
    stream = sys.stdout if IN_LAMBDA else sys.stderr
    # In one piece, as other threads and processes write lines, too.
    stream.write(f"{line}\n")
    stream.flush()


def _definitions(metrics: Values) -> Iterator[Values]:
    for name in metrics:
        yield {"Name": name, "Unit": "Milliseconds" if name in IN_MILLISECONDS else "Count"}
