"""The numbers of status/ as text for Prometheus.

All are gauges: what is counted has ended within a window, so it falls again. See "Text-based
format" of Prometheus' "Exposition formats".
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from ..operations import Counts, Stats

ACCEPTED: Final = "text/plain; version=0.0.4"
"""The type that Prometheus asks for. Django compares the parameters, so it has no other one."""

CONTENT_TYPE: Final = f"{ACCEPTED}; charset=utf-8"

NOW: Final = ("waiting", "delayed", "running", "stuck")
"""The states of a task that has not ended."""

ENDED: Final = ("succeeded", "failed", "retried", "cancelled")
"""The outcomes of runs."""

_ESCAPED: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

_Sample = tuple[Mapping[str, str], float]


def exposition(
    stats: Stats,
    queues: Mapping[str, Counts],
    tasks: Mapping[str, Counts],
    paused: Collection[str] = (),
) -> str:
    """Return the text of these counts, by queue and by task, and which queues are paused."""
    window_s = (stats.now - stats.ended_since).total_seconds()
    lines = [
        *_metric("tasks", "Tasks that have not ended.", _samples("queue", queues, "state", NOW)),
        *_metric(
            "oldest_waiting_seconds",
            "Seconds since the oldest waiting task was due; 0 if none waits.",
            [({"queue": name}, each.oldest_waiting_s or 0) for name, each in queues.items()],
        ),
        *_metric(
            "paused",
            "1 if somebody has paused the queue, else 0.",
            [({"queue": name}, int(name in paused)) for name in queues],
        ),
        *_metric(
            "ended",
            "Runs that have ended within the window.",
            _samples("queue", queues, "outcome", ENDED),
        ),
        *_metric("window_seconds", "Seconds that the counts of ends go back.", [({}, window_s)]),
        *_metric(
            "counts_complete",
            "1 if all that has not ended is counted, 0 if there is more.",
            [({}, int(stats.is_complete))],
        ),
        *_metric(
            "task_tasks",
            "Tasks that have not ended, by their names.",
            _samples("task", tasks, "state", NOW),
        ),
        *_metric(
            "task_ended",
            "Runs that have ended within the window, by their names.",
            _samples("task", tasks, "outcome", ENDED),
        ),
    ]
    if stats.last_tick_s is not None:
        lines += _metric(
            "last_tick_age_seconds",
            "Seconds since schedules and relay were looked after.",
            [({}, stats.last_tick_s)],
        )
    return "\n".join(lines) + "\n"


def _samples(
    label: str, counts: Mapping[str, Counts], of: str, names: tuple[str, ...]
) -> list[_Sample]:
    return [
        ({label: key, of: name}, getattr(each, name))
        for key, each in counts.items()
        for name in names
    ]


def _metric(name: str, text: str, samples: list[_Sample]) -> Iterator[str]:
    if not samples:
        return
    name = f"lambda_tasks_{name}"
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    for labels, value in samples:
        pairs = ",".join(f'{label}="{text.translate(_ESCAPED)}"' for label, text in labels.items())
        yield f"{name}{{{pairs}}} {value}" if pairs else f"{name} {value}"
