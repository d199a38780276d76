"""Bars that can be read without a legend: names to the left, values at their ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

INK: Final = "#22272e"
FAINT: Final = "#6b7480"
OTHERS: Final = "#b8c0ca"
OURS: Final = "#0f7b6c"

STYLE: Final[dict[Any, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
}

BAR_INCHES: Final = 0.36

NOTE: Final = "Bars: medians. Thin lines: from the slowest run to the fastest."


@dataclass(frozen=True)
class Bar:
    """The median of the values, a thin line from the least to the largest, and its label."""

    name: str
    values: Sequence[float]
    label: str
    is_ours: bool = False


@dataclass(frozen=True)
class Panel:
    """Bars of one unit, from the top down."""

    title: str
    unit: str
    bars: Sequence[Bar]


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write a PNG with the panels below each other."""
    heights = [len(panel.bars) * BAR_INCHES + 0.95 for panel in panels]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(panels),
            figsize=(8.6, sum(heights) + 0.5),
            gridspec_kw={"height_ratios": heights},
            squeeze=False,
            layout="constrained",
        )
        for panel, ax in zip(panels, axes[:, 0], strict=True):
            _draw_panel(ax, panel)
        figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        figure.supxlabel(NOTE, x=0.01, ha="left", fontsize=8, color=FAINT)
        figure.savefig(path, dpi=160, facecolor="white")
        plt.close(figure)


def _draw_panel(ax: Any, panel: Panel) -> None:
    for row, bar in enumerate(panel.bars):
        _draw_bar(ax, row, bar)
    ax.set_yticks(range(len(panel.bars)), [bar.name for bar in panel.bars], color=INK)
    for tick, bar in zip(ax.get_yticklabels(), panel.bars, strict=True):
        if bar.is_ours:
            tick.set(color=OURS, fontweight="bold")
    ax.invert_yaxis()
    ax.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    ax.set_xlabel(panel.unit, color=FAINT, loc="left")
    ax.set_xlim(0, max(value for bar in panel.bars for value in bar.values) * 1.2)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    ax.tick_params(axis="both", length=0)
    ax.tick_params(axis="x", colors=FAINT)
    ax.grid(axis="x", color="#e6e9ed", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)


def _draw_bar(ax: Any, row: int, bar: Bar) -> None:
    colour = OURS if bar.is_ours else OTHERS
    low, middle, high = min(bar.values), median(bar.values), max(bar.values)
    ax.barh(row, middle, height=0.62, color=colour)
    ax.plot([low, high], [row, row], color=INK, linewidth=1.1, alpha=0.65)
    ax.annotate(
        bar.label,
        (max(middle, high), row),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=OURS if bar.is_ours else INK,
        fontweight="bold" if bar.is_ours else "normal",
    )
