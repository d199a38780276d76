"""Charts as SVG, drawn on the server: no script, no inline style, no file from elsewhere.

Each chart is a `<figure class="lt-chart">` with an `<svg role="img">` that has title and
description, and the same numbers as a table in `<details>`. Each mark has a `<title>` of its own.
Colours come from classes (`lt-ok`, `lt-failed`, `lt-retried`, `lt-cancelled`, `lt-1` to `lt-6` for
lines, `lt-heat-0` to `lt-heat-5`), and what has failed is hatched, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.safestring import SafeString


@dataclass(frozen=True, slots=True)
class Part:
    """One series of a chart: its name, for people, its class, and a value for each label."""

    name: str
    css: str
    values: Sequence[float | None]
    is_hatched: bool = False
    """Whether it is told from others by a pattern, too."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a gantt chart, in seconds since the chart's start."""

    label: str
    css: str
    start_s: float
    end_s: float
    title: str
    is_hatched: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph. `done` of `total` is a bar in a node that stands for a group."""

    id: str
    label: str
    css: str
    title: str
    after: Sequence[str] = ()
    """The ids of the nodes that it waits for."""
    href: str | None = None
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a chart at one of its labels, such as a release."""

    index: int
    title: str


def stacked_bars(
    title: str,
    description: str,
    labels: Sequence[str],
    parts: Sequence[Part],
    *,
    marks: Sequence[Mark] = (),
) -> SafeString:
    """Draw a stack of bars for each label."""
    raise NotImplementedError


def lines(
    title: str,
    description: str,
    labels: Sequence[str],
    parts: Sequence[Part],
    *,
    unit: str = "s",
    marks: Sequence[Mark] = (),
) -> SafeString:
    """Draw a line for each part, on a logarithmic axis if the values span more than 50 times."""
    raise NotImplementedError


def heat_map(
    title: str,
    description: str,
    labels: Sequence[str],
    rows: Sequence[str],
    counts: Sequence[Sequence[int]],
) -> SafeString:
    """Draw a cell for each label and row, the darker the more; `counts` has a list for each row."""
    raise NotImplementedError


def gantt(title: str, description: str, bars: Sequence[Bar], *, total_s: float) -> SafeString:
    """Draw bars of time below each other."""
    raise NotImplementedError


def graph(title: str, description: str, nodes: Sequence[Node]) -> SafeString:
    """Draw nodes in the order of what they wait for, with arrows, from left to right."""
    raise NotImplementedError


def spark_line(title: str, values: Sequence[float], *, css: str = "lt-ok") -> SafeString:
    """Draw a small line without axes, as part of a text; its title has the numbers."""
    raise NotImplementedError
