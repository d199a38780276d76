"""Charts: well-formed, readable without colours, and safe with any text."""

import re
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.admin import charts
from lambda_tasks.admin.charts import Bar, Mark, Node, Part
from lambda_tasks.admin.drawing import HEIGHT

EVIL = "<script>alert('x')</script>\" onload=\"y"
PARTS = [
    Part("Succeeded", "lt-ok", [3, 0, 5]),
    Part("Failed", "lt-failed", [1, None, 2], is_hatched=True),
]
LABELS = ["10:00", "10:01", "10:02"]


def all_charts(text: str = "Ends") -> dict[str, str]:
    """One of each kind, with a text wherever there can be one."""
    parts = [Part(text, each.css, each.values, each.is_hatched) for each in PARTS]
    labels = [text, *LABELS[1:]]
    nodes = [
        Node("a", text, "lt-ok", text, href="/a?x=1&y=2"),
        Node("b", text * 9, "lt-failed", text, after=["a", "gone"], done=3, total=4),
        Node("c", text, "lt-waits", text, after=["a", "b"]),
    ]
    bars = [Bar(text, "lt-ok", 0, 0, text), Bar(text, "lt-failed", 1, 4, text, is_hatched=True)]
    return {
        "bars": charts.stacked_bars(text, text, labels, parts, marks=[Mark(1, text)]),
        "lines": charts.lines(text, text, labels, parts, marks=[Mark(1, text)]),
        "heat": charts.heat_map(text, text, labels, [text, "1 s"], [[1, 0, 900], [0, 0, 3]]),
        "gantt": charts.gantt(text, text, bars, total_s=4.0),
        "graph": charts.graph(text, text, nodes),
        "spark": charts.spark_line(text, [1, 2, 3]),
    }


@pytest.mark.parametrize("kind", all_charts())
@pytest.mark.parametrize("text", ["Ends", EVIL, "Ende von „Läufen“ & mehr"])
def test_a_chart_is_well_formed_and_has_no_style_and_no_script(kind: str, text: str) -> None:
    chart = all_charts(text)[kind]

    root = ElementTree.fromstring(chart)
    for element in root.iter():
        assert element.tag != "script"
        assert not [each for each in element.attrib if each == "style" or each.startswith("on")]
    images = [each for each in root.iter("svg") if each.get("aria-hidden") is None]
    assert len(images) == 1
    assert images[0].get("role") in ("img", "group")
    assert text in (images[0].get("aria-label") or "")


@pytest.mark.parametrize("kind", [each for each in all_charts() if each != "spark"])
def test_a_chart_has_the_same_numbers_as_a_table(kind: str) -> None:
    root = ElementTree.fromstring(all_charts()[kind])

    table = root.find(".//details//table")
    assert table is not None
    cells = ["".join(each.itertext()) for each in table.iter("td")]
    expected = {
        "bars": {"3", "5", "1", "2"},
        "lines": {"3.0 s", "5.0 s", "1.0 s", "2.0 s", "-"},
        "heat": {"1", "900", "3"},
        "gantt": {"0 ms", "1.0 s", "3.0 s"},
        "graph": {"Ends"},
    }
    assert expected[kind] <= set(cells)


def test_each_mark_says_what_it_is_and_failures_are_hatched() -> None:
    root = ElementTree.fromstring(charts.stacked_bars("Ends", "", LABELS, PARTS))

    titles = [each.findtext("title") for each in root.iter("g")]
    assert {"10:00: Succeeded 3", "10:02: Failed 2"} <= set(titles)
    pattern = root.find(".//pattern")
    assert pattern is not None
    fill = f"url(#{pattern.get('id')})"
    assert len([each for each in root.iter("rect") if each.get("fill") == fill]) == 2


def test_bars_stand_on_each_other_and_do_not_leave_the_drawing() -> None:
    root = ElementTree.fromstring(charts.stacked_bars("Ends", "", LABELS, PARTS))

    boxes = [
        [float(each.get(name, 0)) for name in ("x", "y", "height")]
        for each in root.iter("rect")
        if each.get("class") in ("lt-ok", "lt-failed") and each.get("x")
    ]
    (x, y, height), (x_above, y_above, height_above) = boxes[:2]  # those of 10:00
    assert x == x_above
    assert y + height == HEIGHT
    assert y_above + height_above == pytest.approx(y, abs=0.1)
    assert all(y >= 0 for _, y, _ in boxes)
    assert height == pytest.approx(3 * height_above, abs=0.1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: charts.stacked_bars("Ends", "", [], []),
        lambda: charts.stacked_bars("Ends", "", LABELS, [Part("None", "lt-ok", [0, 0, 0])]),
        lambda: charts.lines("Waits", "", [], []),
        lambda: charts.lines("Waits", "", LABELS, [Part("p50", "lt-1", [None] * 3)]),
        lambda: charts.lines("Waits", "", LABELS, [Part("p50", "lt-1", [0.0, 0.0, 0.0])]),
        lambda: charts.heat_map("Waits", "", LABELS, [], []),
        lambda: charts.heat_map("Waits", "", LABELS, ["1 s"], [[0, 0, 0]]),
        lambda: charts.gantt("Life", "", [], total_s=0),
        lambda: charts.graph("Steps", "", []),
        lambda: charts.spark_line("Failures", []),
    ],
)
def test_nothing_can_be_drawn(draw: Callable[[], str]) -> None:
    ElementTree.fromstring(draw())


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e9)), max_size=9))
def test_lines_stay_within_the_drawing(values: list[float | None]) -> None:
    labels = [str(number) for number in range(len(values))]

    chart = charts.lines("Waits", "", labels, [Part("p50", "lt-1", values)])

    path = re.search(r' d="([^"]*)"', chart)
    assert path is not None
    heights = [float(each) for each in re.findall(r"[ML][-\d.]+ ([-\d.]+)h0", path[1])]
    assert len(heights) == len([each for each in values if each is not None])
    assert all(0 <= each <= HEIGHT for each in heights)


@pytest.mark.parametrize("n", [1, 2, 5, 6, 24, 60, 97])
def test_the_labels_below_a_chart_reach_from_its_first_moment_to_its_last(n: int) -> None:
    labels = [str(number) for number in range(n)]

    chart = charts.lines("Waits", "", labels, [Part("p50", "lt-1", [1.0] * n)])

    (below,) = re.findall(r'<div class="lt-x"[^>]*>(.*?)</div>', chart)
    shown = [int(each) for each in re.findall(r"<span>(\d+)</span>", below)]
    assert (shown[0], shown[-1], len(shown)) == (0, n - 1, min(n, 5))
    steps = [after - before for before, after in pairwise(shown)] or [1]
    assert max(steps) - min(steps) <= 1


def test_a_graph_has_each_node_behind_those_that_it_waits_for() -> None:
    nodes = [
        Node("d", "d", "lt-ok", "d", after=["b", "c"]),
        Node("b", "b", "lt-ok", "b", after=["a"]),
        Node("c", "c", "lt-ok", "c", after=["a"]),
        Node("a", "a", "lt-ok", "a"),
    ]

    places = charts._places(nodes)

    assert places["a"][0] < places["b"][0] == places["c"][0] < places["d"][0]
    assert len(set(places.values())) == 4


def test_nodes_in_a_circle_are_drawn_somewhere() -> None:
    nodes = [Node("a", "a", "", "", after=["b"]), Node("b", "b", "", "", after=["a"])]

    ElementTree.fromstring(charts.graph("Steps", "", nodes))
