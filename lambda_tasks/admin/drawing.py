"""What charts are made of: marks, the drawing with axes, legend and table, and numbers."""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from django.utils.formats import number_format
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext

WIDTH: Final = 600
HEIGHT: Final = 160
"""The size of a drawing in its own units; a unit is as high as a pixel, and as wide as it comes."""

ROW: Final = 24
"""The pixels of a row of a heat map or gantt chart."""

N_LABELS: Final = 5
"""The most labels below a chart."""


SMALLEST: Final = 1e-6
"""The least value that a chart tells from 0: a microsecond."""

Columns = Sequence[tuple[str, Sequence[str]]]
"""The heads of a table's columns, with their cells."""


@dataclass(frozen=True, slots=True)
class Part:
    """One series of a chart: its name, for people, its class, and a value for each label."""

    name: str
    css: str
    values: Sequence[float | None]
    is_hatched: bool = False
    """Whether it is told from others by a pattern, too; for lines, by dashes."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a chart at one of its labels, such as a release."""

    index: int
    title: str


# Marks


def rect(box: str, css: str, told: str, hatch: str | None = None) -> str:
    """Return a rectangle that says what it is; with `hatch`, the id of a pattern, hatched."""
    hatched = f'<rect {box} fill="url(#{hatch})"/>' if hatch else ""
    told = f"<title>{escape(told)}</title>"
    return f'<g>{told}<rect class="{escape(css)}" {box}/>{hatched}</g>'


def box(x: float, y: float, width: float, height: float) -> str:
    """Return the attributes that place a rectangle."""
    return f'x="{short(x)}" y="{short(y)}" width="{short(width)}" height="{short(height)}"'


def mark_lines(marks: Iterable[Mark], step: float) -> list[str]:
    """Return a line for each mark; `step` is the width of a label."""
    return [
        f'<g><title>{escape(mark.title)}</title><path class="lt-mark"'
        f' d="M{short(mark.index * step)} 0V{HEIGHT}" vector-effect="non-scaling-stroke"/></g>'
        for mark in marks
    ]


# What is around them


def svg(title: str, description: str, drawn: Iterable[str], height: int) -> str:
    """Return a picture that is as wide as its place."""
    return (
        f'<svg role="img" aria-label="{escape(f"{title}. {description}")}" width="100%"'
        f' height="{height}" viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(drawn)}</svg>"
    )


def plot(svg: str, axis: Sequence[str], labels: Sequence[str], *, css: str = "") -> str:
    """Return a drawing between its axes, which are no part of its picture to a screen reader."""
    return (
        f'<div class="lt-plot {css}"><div class="lt-y" aria-hidden="true">{_spans(axis)}</div>{svg}'
        f'<div class="lt-x" aria-hidden="true">{_spans(_some(labels))}</div></div>'
    )


def _some(labels: Sequence[str]) -> Sequence[str]:
    """Return the first label, the last one, and some between them at equal distances."""
    if len(labels) <= N_LABELS:
        return labels
    last = len(labels) - 1
    return [labels[round(number * last / (N_LABELS - 1))] for number in range(N_LABELS)]


def _spans(texts: Iterable[str]) -> str:
    return "".join(f"<span>{escape(text)}</span>" for text in texts)


def legend(parts: Iterable[Part], *, is_line: bool = False) -> str:
    """Return what the colours and patterns of parts mean."""
    items = []
    for part in parts:
        css, hatch = escape(part.css), hatch_id(part.name)
        if is_line:
            dashes = ' stroke-dasharray="5 4"' if part.is_hatched else ""
            swatch = f'<path class="lt-line {css}" d="M0 6H18"{dashes}/>'
        else:
            swatch = f'<rect class="{css}" width="18" height="12"/>'
            if part.is_hatched:
                swatch = (
                    f'{hatching(hatch)}{swatch}<rect width="18" height="12" fill="url(#{hatch})"/>'
                )
        svg = f'<svg aria-hidden="true" width="18" height="12" viewBox="0 0 18 12">{swatch}</svg>'
        items.append(f"<li>{svg} {escape(part.name)}</li>")
    return f'<ul class="lt-legend">{"".join(items)}</ul>'


def table(title: str, labels: Sequence[str], columns: Columns) -> str:
    """Return the numbers of a chart as a table to unfold, with a row for each label."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name, _ in columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        f"{''.join(f'<td>{escape(column[number])}</td>' for _, column in columns)}</tr>"
        for number, label in enumerate(labels)
    )
    return (
        f"<details><summary>{escape(gettext('As a table'))}</summary>"
        f'<div class="lt-scroll" tabindex="0"><table><caption>{escape(title)}</caption>'
        f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def figure(title: str, inner: str) -> SafeString:
    """Return a chart with what is around it."""
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return mark_safe(f'<figure class="lt-chart">{caption}{inner}</figure>')  # noqa: S308 - as above


def hatch_id(title: str) -> str:
    """Return an id, which the titles of a page's charts make different."""
    return f"lt-hatch-{zlib.crc32(title.encode()):x}"


def hatching(id: str) -> str:
    """Return the pattern of this id."""
    return (
        f'<defs><pattern id="{id}" width="6" height="6" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate(45)"><path class="lt-hatch" d="M1 0V6"/></pattern></defs>'
    )


# Numbers


def nice(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten, at which an axis can end."""
    if value < SMALLEST:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= value)


def short(value: float) -> str:
    """Return a coordinate in few characters."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def count(value: float) -> str:
    """Return a number as people of the language write it."""
    return number_format(value, 0 if float(value).is_integer() else 1, force_grouping=True)


def counts(values: Iterable[float | None]) -> list[str]:
    """Return numbers, and nothing for those that are unknown."""
    return ["" if value is None else count(value) for value in values]


def amount(value: float | None, unit: str) -> str:
    """Return a value with its unit; seconds in the unit in which one says them."""
    if value is None:
        return "-"
    if unit != "s":
        return f"{count(value)} {unit}".strip()
    for size_s, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if value >= size_s:
            shown = value / size_s
            return f"{number_format(shown, 0 if shown >= 10 else 1)} {name}"
    if 0 < value < 0.001:
        return "< 1 ms"
    return f"{number_format(value * 1000, 0)} ms"
