"""What a durable function means: what its lines leave behind, how it ends, and what it undoes.

It knows no database, no queue, no time and no crash. `play` plays a function, which ends as if it
had run in one go; `functions` draws some. `tests/app/durable_lines.py` has a task that runs them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal
from zlib import crc32

from hypothesis import strategies as st

NEVER: Final = 99
"""The failures of what never succeeds."""

RETRIES: Final = 20
"""The retries of a function: more than its lines can need between two of its waits."""

Signal = Literal["early", "sometime", "late", "never"]
Kind = Literal["step", "pair", "run", "gather", "sleep", "wait"]


@dataclass(frozen=True)
class Line:
    """A line of a function.

    A step leaves `rows` rows, and before it succeeds it fails `failures` times with an error for
    which the function is retried. A step that is `refused` raises another error each time, and so
    does a `run` whose task fails for good; if the error `is_caught`, the function goes on. A pair
    are two steps that begin at once. A `gather` has members that fail or not. A `wait` gets its
    signal or not. `is_undone` says that a compensation follows. A line that is `only_if_odd`
    depends on the values before it.
    """

    name: str
    kind: Kind = "step"
    rows: int = 1
    failures: int = 0
    is_refused: bool = False
    is_caught: bool = True
    members: tuple[bool, ...] = ()
    signal: Signal = "never"
    is_undone: bool = False
    only_if_odd: bool = False


@dataclass(frozen=True)
class Function:
    """A function: its lines, and whether it raises an error after them."""

    lines: tuple[Line, ...]
    fails: bool = False

    @property
    def as_json(self) -> list[dict[str, Any]]:
        """The lines as an argument of the task."""
        return [asdict(line) for line in self.lines]


@dataclass
class Outcome:
    """What is left of a function that has ended."""

    status: str
    result: int | None
    rows: Counter[str] = field(default_factory=Counter)
    undone: list[str] = field(default_factory=list)


def result_of(*values: object) -> int:
    """Return what a line returns, which shows the values that it got."""
    return crc32(repr(values).encode())


class Refused(Exception):
    """A step, or a task, refuses for good."""


def play(function: Function) -> Outcome:
    """Return how a function ends that nothing ever disturbs."""
    outcome = Outcome("SUCCESS", None)
    undoings: list[str] = []
    value = 0
    try:
        for line in function.lines:
            if line.only_if_odd and value % 2 == 0:
                continue
            try:
                value = result_of(value, *_values_of(line, value, outcome.rows))
            except Refused:
                if not line.is_caught:
                    raise
                value = result_of(value, line.name, "refused")
            if line.is_undone:
                undoings.append(line.name)
        if function.fails:
            raise Refused
        outcome.result = value
    except Refused:
        outcome.status = "FAILED"
        outcome.undone = undoings[::-1]
    return outcome


def _values_of(line: Line, value: int, rows: Counter[str]) -> Iterator[object]:
    """Yield what a line gives the function, and count the rows that it leaves."""
    if line.is_refused:
        raise Refused
    match line.kind:
        case "step":
            rows[line.name] += line.rows
            yield result_of(line.name, value)
        case "pair":
            for name in (f"{line.name}.a", f"{line.name}.b"):
                rows[name] += line.rows
                yield result_of(name, value)
        case "run":
            rows[line.name] += line.rows
            yield result_of(line.name, value)
        case "gather":
            for number, succeeds in enumerate(line.members):
                if succeeds:
                    rows[f"{line.name}.{number}"] += 1
                    yield result_of(f"{line.name}.{number}", value)
            yield line.members.count(False)
        case "sleep":
            yield None
        case "wait":
            yield None if line.signal == "never" else result_of(line.name)


FAILURES: Final = st.sampled_from((0, 0, 0, 0, 1, 2))

ONE_OF_FOUR: Final = st.integers(0, 3).map(lambda drawn: drawn == 0)


@st.composite
def functions(draw: st.DrawFn) -> Function:
    """Draw a function."""
    lines = [_draw_line(draw, f"line:{number}") for number in range(draw(st.integers(1, 7)))]
    return Function(tuple(lines), draw(ONE_OF_FOUR))


def _draw_line(draw: st.DrawFn, name: str) -> Line:
    kind: Kind = draw(
        st.sampled_from(("step", "step", "step", "pair", "run", "gather", "sleep", "wait"))
    )
    conditions: Any = {"only_if_odd": draw(ONE_OF_FOUR), "is_undone": draw(st.booleans())}
    match kind:
        case "step" | "run":
            is_refused = draw(ONE_OF_FOUR)
            return Line(
                name,
                kind,
                rows=draw(st.integers(0, 2)),
                failures=0 if is_refused else draw(FAILURES),
                is_refused=is_refused,
                is_caught=draw(st.booleans()),
                **conditions,
            )
        case "gather":
            members = draw(st.lists(st.integers(0, 4).map(bool), max_size=4))
            return Line(name, kind, members=tuple(members), **conditions)
        case "wait":
            signal: Signal = draw(st.sampled_from(("early", "sometime", "late", "never")))
            return Line(name, kind, signal=signal, **conditions)
        case _:
            return Line(name, kind, **conditions)
