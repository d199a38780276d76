"""Charts as SVG, drawn on the server: no script, no inline style, no file from elsewhere.

Each chart is a `<figure class="lt-chart">` with an `<svg role="img">` that has a title and a
description, and with the same numbers as a table in `<details>`. Each mark has a `<title>`. The
drawing stretches with the page, so axes and legend are HTML beside it, whose text keeps its size.
Colours come from `charts.css`, by classes: `lt-ok`, `lt-failed`, `lt-retried`, `lt-cancelled`,
`lt-waits`, `lt-1` to `lt-4`, and `lt-heat-1` to `lt-heat-5`. What has failed is hatched, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext

from . import drawing
from .drawing import HEIGHT, ROW, SMALLEST, WIDTH, Mark, Part

__all__ = [
    "Bar",
    "Mark",
    "Node",
    "Part",
    "gantt",
    "graph",
    "heat_map",
    "lines",
    "spark_line",
    "stacked_bars",
]

SHADES: Final = 5
"""The shades of a heat map."""

LOGARITHMIC_FROM: Final = 50
"""How many times the least value the most one is from which on an axis is logarithmic."""

NODE_WIDTH: Final = 170
NODE_HEIGHT: Final = 40
NODE_GAP: Final = 50
MAX_NODE_CHARS: Final = 22


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


def stacked_bars(
    title: str,
    description: str,
    labels: Sequence[str],
    parts: Sequence[Part],
    *,
    marks: Sequence[Mark] = (),
) -> SafeString:
    """Draw a stack of bars for each label."""
    stacks = [sum(part.values[number] or 0 for part in parts) for number in range(len(labels))]
    top = drawing.nice(max(stacks, default=0))
    hatch = drawing.hatch_id(title)
    step = WIDTH / max(len(labels), 1)
    drawn = [drawing.hatching(hatch)]
    for number, label in enumerate(labels):
        y = float(HEIGHT)
        for part in parts:
            if value := part.values[number]:
                height = value / top * HEIGHT
                y -= height
                box = drawing.box(number * step + step * 0.1, y, step * 0.8, height)
                told = f"{label}: {part.name} {drawing.count(value)}"
                drawn.append(drawing.rect(box, part.css, told, hatch if part.is_hatched else None))
    drawn += drawing.mark_lines(marks, step)
    axis = [drawing.count(top), drawing.count(top / 2), "0"]
    svg = drawing.svg(title, description, drawn, HEIGHT)
    columns = [(part.name, drawing.counts(part.values)) for part in parts]
    table = drawing.table(title, labels, columns)
    return drawing.figure(title, drawing.plot(svg, axis, labels) + drawing.legend(parts) + table)


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
    known = [value for part in parts for value in part.values if value and value >= SMALLEST]
    low, top = min(known, default=0.0), drawing.nice(max(known, default=0.0))
    is_logarithmic = bool(known) and top > LOGARITHMIC_FROM * low

    def y_of(value: float) -> float:
        if is_logarithmic:
            share = math.log(max(value, low) / low) / math.log(top / low)
        else:
            share = value / top
        return HEIGHT - 2 - share * (HEIGHT - 4)

    step = WIDTH / max(len(labels), 1)
    drawn = []
    for part in parts:
        # A round end of no length is the dot of a value without neighbours.
        path, pen = [], "M"
        for number, value in enumerate(part.values):
            if value is None:
                pen = "M"
                continue
            path.append(
                f"{pen}{drawing.short((number + 0.5) * step)} {drawing.short(y_of(value))}h0"
            )
            pen = "L"
        dashes = ' stroke-dasharray="5 4"' if part.is_hatched else ""
        drawn.append(
            f'<path class="lt-line {escape(part.css)}" d="{"".join(path)}"{dashes}'
            f' vector-effect="non-scaling-stroke"><title>{escape(part.name)}</title></path>'
        )
    for number, label in enumerate(labels):
        values = [(part.name, part.values[number]) for part in parts]
        told = ", ".join(f"{name} {drawing.amount(value, unit)}" for name, value in values)
        drawn.append(
            drawing.rect(
                drawing.box(number * step, 0, step, HEIGHT), "lt-hover", f"{label}: {told}"
            )
        )
    drawn += drawing.mark_lines(marks, step)
    middle = math.sqrt(low * top) if is_logarithmic else top / 2
    axis = [drawing.amount(each, unit) for each in (top, middle, low if is_logarithmic else 0.0)]
    svg = drawing.svg(title, description, drawn, HEIGHT)
    columns = [(part.name, [drawing.amount(each, unit) for each in part.values]) for part in parts]
    table = drawing.table(title, labels, columns)
    return drawing.figure(
        title, drawing.plot(svg, axis, labels) + drawing.legend(parts, is_line=True) + table
    )


def heat_map(
    title: str,
    description: str,
    labels: Sequence[str],
    rows: Sequence[str],
    counts: Sequence[Sequence[int]],
) -> SafeString:
    """Draw a cell for each label and row, the darker the more; `counts` has a list for each row.

    The first row is at the bottom.
    """
    most = max((count for row in counts for count in row), default=0)
    step = WIDTH / max(len(labels), 1)
    drawn = []
    for level, (name, row) in enumerate(zip(rows, counts, strict=True)):
        for number, count in enumerate(row):
            if count:
                # By powers: one call that waits for an hour must be seen beside thousands.
                shade = 1 + min(int(math.log(count + 1, most + 1) * SHADES), SHADES - 1)
                box = drawing.box(number * step, (len(rows) - 1 - level) * ROW, step, ROW)
                told = f"{labels[number]}, {name}: {drawing.count(count)}"
                drawn.append(drawing.rect(box, f"lt-heat-{shade}", told))
    svg = drawing.svg(title, description, drawn, len(rows) * ROW)
    table = drawing.table(
        title, labels, [(n, drawing.counts(row)) for n, row in zip(rows, counts, strict=True)]
    )
    return drawing.figure(title, drawing.plot(svg, rows[::-1], labels, css="lt-rows") + table)


def gantt(title: str, description: str, bars: Sequence[Bar], *, total_s: float) -> SafeString:
    """Draw bars of time below each other."""
    hatch = drawing.hatch_id(title)
    scale = WIDTH / (total_s or 1.0)
    drawn = [drawing.hatching(hatch)]
    for number, bar in enumerate(bars):
        # What took no time is seen, too.
        width = max((bar.end_s - bar.start_s) * scale, 2.0)
        box = drawing.box(min(bar.start_s * scale, WIDTH - 2.0), number * ROW + 4, width, ROW - 8)
        drawn.append(drawing.rect(box, bar.css, bar.title, hatch if bar.is_hatched else None))
    svg = drawing.svg(title, description, drawn, len(bars) * ROW)
    times = ["0", *(drawing.amount(total_s * part / 4, "s") for part in range(1, 5))]
    columns = [
        (gettext("Start"), [drawing.amount(bar.start_s, "s") for bar in bars]),
        (gettext("Duration"), [drawing.amount(bar.end_s - bar.start_s, "s") for bar in bars]),
    ]
    names = [bar.label for bar in bars]
    table = drawing.table(title, names, columns)
    return drawing.figure(title, drawing.plot(svg, names, times, css="lt-rows") + table)


def graph(title: str, description: str, nodes: Sequence[Node]) -> SafeString:
    """Draw nodes in the order of what they wait for, with arrows, from left to right."""
    places = _places(nodes)
    hatch, arrow = drawing.hatch_id(title), f"{drawing.hatch_id(title)}-arrow"
    head = (
        f'<marker id="{arrow}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path class="lt-arrow" d="M0 0L8 4L0 8z"/></marker>'
    )
    drawn = [drawing.hatching(hatch), head]
    for node in nodes:
        x, y = places[node.id]
        for before in node.after:
            if before in places:
                drawn.append(_edge(places[before], (x, y), arrow))
    drawn += [_node(node, *places[node.id], hatch) for node in nodes]
    width = max((x for x, _ in places.values()), default=0) + NODE_WIDTH + 4
    height = max((y for _, y in places.values()), default=0) + NODE_HEIGHT + 4
    svg = (
        f'<svg role="group" aria-label="{escape(title)}" width="{width}" height="{height}"'
        f' viewBox="-2 -2 {width} {height}"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{''.join(drawn)}</svg>"
    )
    label_of = {node.id: node.label for node in nodes}
    waits_for = [
        ", ".join(label_of[each] for each in node.after if each in label_of) for node in nodes
    ]
    columns = [
        (gettext("State"), [node.title for node in nodes]),
        (gettext("After"), waits_for),
    ]
    table = drawing.table(title, [node.label for node in nodes], columns)
    # Reached by keyboard, so that it can be scrolled without a mouse.
    scrolled = f'<div class="lt-scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
    return drawing.figure(title, f"{scrolled}{svg}</div>{table}")


def spark_line(title: str, values: Sequence[float], *, css: str = "lt-ok") -> SafeString:
    """Draw a small line without axes, as part of a text; its title has the numbers."""
    top = max(values, default=0) or 1
    step = 100 / max(len(values) - 1, 1)
    points = " ".join(
        f"{drawing.short(number * step)},{drawing.short(19 - value / top * 18)}"
        for number, value in enumerate(values)
    )
    told = f"{title}: {', '.join(drawing.counts(values))}"
    return mark_safe(  # noqa: S308 - all that varies is escaped or a number
        f'<svg class="lt-spark" role="img" aria-label="{escape(told)}" width="100" height="20"'
        f' viewBox="0 0 100 20" preserveAspectRatio="none"><title>{escape(told)}</title>'
        f'<polyline class="lt-line {escape(css)}" points="{points}"'
        ' vector-effect="non-scaling-stroke"/></svg>'
    )


def _edge(start: tuple[int, int], end: tuple[int, int], arrow: str) -> str:
    x1, y1 = start[0] + NODE_WIDTH, start[1] + NODE_HEIGHT // 2
    x2, y2 = end[0], end[1] + NODE_HEIGHT // 2
    middle = (x1 + x2) // 2
    path = f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
    return f'<path class="lt-edge" d="{path}" marker-end="url(#{arrow})"/>'


def _node(node: Node, x: int, y: int, hatch: str) -> str:
    label = node.label
    if len(label) > MAX_NODE_CHARS:
        label = f"{label[: MAX_NODE_CHARS - 1]}…"
    box = drawing.box(x, y, NODE_WIDTH, NODE_HEIGHT)
    drawn = f'<rect class="lt-node {escape(node.css)}" {box} rx="4"/>'
    if node.css == "lt-failed":
        drawn += f'<rect {drawing.box(x, y, 8, NODE_HEIGHT)} fill="url(#{hatch})"/>'
    if node.total:
        done = drawing.box(x, y + NODE_HEIGHT - 5, NODE_WIDTH * node.done / node.total, 5)
        drawn += f'<rect class="lt-done" {done}/>'
    drawn += f'<text class="lt-label" x="{x + 14}" y="{y + 24}">{escape(label)}</text>'
    drawn = f"<g><title>{escape(node.title)}</title>{drawn}</g>"
    return f'<a href="{escape(node.href)}">{drawn}</a>' if node.href else drawn


def _places(nodes: Sequence[Node]) -> dict[str, tuple[int, int]]:
    """Return where nodes stand: each in the column behind those that it waits for."""
    column: dict[str, int] = {}
    left = {node.id: [each for each in node.after if each != node.id] for node in nodes}
    while left:
        ready = [id for id, after in left.items() if not any(each in left for each in after)]
        for id in ready or list(left):  # a circle, which no plan has, ends here, too
            column[id] = max((column.get(each, -1) for each in left.pop(id)), default=-1) + 1
    heights: dict[int, int] = {}
    places = {}
    for node in nodes:
        number = column[node.id]
        row = heights[number] = heights.get(number, -1) + 1
        places[node.id] = (number * (NODE_WIDTH + NODE_GAP), row * (NODE_HEIGHT + 14))
    return places
