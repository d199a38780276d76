"""What the definition of a workflow implies: which steps run, with which values, and how it ends.

It knows no database, no queue and no time. `Model` plays a definition; `definitions` draws some.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from zlib import crc32

from hypothesis import strategies as st

RETRIES: Final = 1
"""The retries that each step has; `retry_failed` grants them anew."""

NEVER: Final = 99
"""The failures of a step that never succeeds."""


@dataclass(frozen=True)
class Step:
    """A step. It fails as often as `failures` says, and then succeeds.

    `after`, `takes` and `many` name what must succeed before: with no value passed, with the result
    of a step, and with the results of a group. `inherited` names what the workflow around it waits
    for, if the step is one of its first.
    """

    name: str
    failures: int = 0
    after: tuple[str, ...] = ()
    takes: str | None = None
    many: str | None = None
    inherited: tuple[str, ...] = ()
    on_failure: "Step | None" = None
    finally_: "Step | None" = None

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The names of what comes before it."""
        values = [each for each in (self.takes, self.many) if each is not None]
        return (*self.after, *values) or self.inherited

    @property
    def handlers(self) -> tuple["Step", ...]:
        """The steps that its end releases."""
        return tuple(each for each in (self.on_failure, self.finally_) if each is not None)


@dataclass(frozen=True)
class Group:
    """Steps or workflows side by side; `need` as in `group()`."""

    name: str
    members: tuple["Unit", ...]
    need: int | float | str = "all"

    def is_enough(self, succeeded: int) -> bool:
        """Return whether so many successes release what follows, once all members have ended."""
        if self.need == "any_outcome":
            return True
        if self.need == "all":
            return succeeded == len(self.members)
        if isinstance(self.need, int):
            return succeeded >= self.need
        assert isinstance(self.need, float)
        return succeeded >= self.need * len(self.members)


@dataclass(frozen=True)
class Flow:
    """A workflow: all that belongs to it, in an order in which each names only earlier ones.

    As a step of another it waits for what `after` names.
    """

    name: str
    units: tuple["Unit", ...]
    after: tuple[str, ...] = ()

    @property
    def last(self) -> tuple["Unit", ...]:
        """The units that no other one waits for."""
        waited_for = {name for unit in self.units for name in _waits_of(unit)}
        return tuple(unit for unit in self.units if unit.name not in waited_for)


Unit = Step | Group | Flow


def steps_of(unit: Unit) -> Iterator[Step]:
    """Yield the steps of a unit, at any depth, and their handlers."""
    match unit:
        case Step():
            yield unit
            yield from unit.handlers
        case Group(members=units) | Flow(units=units):
            for each in units:
                yield from steps_of(each)


def _waits_of(unit: Unit) -> Iterator[str]:
    """Yield the names of what a unit waits for, or a member of it."""
    match unit:
        case Step():
            yield from unit.waits_for
        case Group(members=units):
            for each in units:
                yield from _waits_of(each)
        case Flow():
            yield from unit.after
            for each in unit.units:
                yield from _waits_of(each)


def result_of(name: str, first: int, many: list[int]) -> int:
    """Return what a step returns, which shows the values that it got."""
    return crc32(repr((name, first, many)).encode())


@dataclass
class Model:
    """A workflow that runs. `statuses` has the steps that have ended, `ran` how often each ran."""

    flow: Flow
    statuses: dict[str, str] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.units: Mapping[str, Unit] = {unit.name: unit for unit in _units_of(self.flow)}
        self._subject_of = {
            handler.name: step for step in steps_of(self.flow) for handler in step.handlers
        }

    def run(self) -> None:
        """Run what may run, until nothing may."""
        while ready := [step for step in steps_of(self.flow) if self.is_ready(step)]:
            for step in ready:
                self._run(step)

    def retry_failed(self) -> None:
        """Let the steps that have failed run again, with all their retries."""
        self.statuses = {
            name: status for name, status in self.statuses.items() if status == "SUCCESS"
        }

    def is_ready(self, step: Step) -> bool:
        """Return whether a step may run, and has not ended."""
        if step.name in self.statuses or self.is_cancelled:
            return False
        if (subject := self._subject_of.get(step.name)) is not None:
            verdict = self.verdict(subject)
            return verdict is not None and (subject.on_failure != step or not verdict)
        return all(self.verdict(self.units[name]) for name in step.waits_for)

    def verdict(self, unit: Unit) -> bool | None:
        """Return whether a unit has succeeded; None as long as it can do either.

        What waits for a failure can't run any more, so it counts as failed.
        """
        match unit:
            case Step():
                return self._verdict_of_step(unit)
            case Group():
                verdicts = [self.verdict(member) for member in unit.members]
                if None in verdicts:
                    return None
                return unit.is_enough(verdicts.count(True))
            case Flow():
                verdicts = [self.verdict(each) for each in unit.last]
                return None if None in verdicts else all(verdicts)

    @property
    def status(self) -> str:
        """The status of the workflow."""
        verdicts = [self.verdict(each) for each in self.flow.last]
        if self.is_cancelled:
            return "CANCELLED"
        if None in verdicts or any(self.is_ready(step) for step in steps_of(self.flow)):
            return "RUNNING"
        return "SUCCESS" if all(verdicts) else "FAILED"

    def _verdict_of_step(self, step: Step) -> bool | None:
        status = self.statuses.get(step.name)
        if status is not None:
            return status == "SUCCESS"
        verdicts = [self.verdict(self.units[name]) for name in step.waits_for]
        return False if False in verdicts else None

    def _run(self, step: Step) -> None:
        for _ in range(1 + RETRIES):
            self.ran[step.name] = self.ran.get(step.name, 0) + 1
            if self.ran[step.name] > step.failures:
                self.statuses[step.name] = "SUCCESS"
                self.results[step.name] = self._result(step)
                return
        self.statuses[step.name] = "FAILED"

    def _result(self, step: Step) -> int:
        first = 0 if step.takes is None else self.results[step.takes]
        many: list[int] = []
        if step.many is not None:
            group = self.units[step.many]
            assert isinstance(group, Group)
            many = [self.results[each.name] for each in group.members if each.name in self.results]
        return result_of(step.name, first, many)


def _units_of(unit: Unit) -> Iterator[Unit]:
    yield unit
    match unit:
        case Group(members=units) | Flow(units=units):
            for each in units:
                yield from _units_of(each)


FAILURES: Final = st.sampled_from((0, 0, 0, 0, 0, 1, 1, 2, 3, NEVER))


@st.composite
def definitions(
    draw: st.DrawFn, prefix: str = "", depth: int = 1, after: tuple[str, ...] = ()
) -> Flow:
    """Draw a workflow, which may have others in it."""
    units: list[Unit] = []
    for number in range(draw(st.integers(1, 5 if depth else 3))):
        name = f"{prefix}{number}"
        kind = draw(st.sampled_from(("step", "step", "group", "flow") if depth else ("step",)))
        if kind == "group":
            units.append(_draw_group(draw, name, units))
        elif kind == "flow":
            before = _draw_names(draw, units)
            units.append(draw(definitions(f"{name}.", depth - 1, before)))
        else:
            units.append(_draw_step(draw, name, units, inherited=after, has_handlers=True))
    return Flow(prefix[:-1] or "flow", tuple(units), after)


def _draw_group(draw: st.DrawFn, name: str, before: list[Unit]) -> Group:
    n_members = draw(st.sampled_from((0, 1, 2, 3, 3, 40)))
    members: list[Unit] = []
    for number in range(n_members):
        if n_members < 40 and draw(st.integers(0, 4)) == 0:
            flow = draw(definitions(f"{name}.{number}.", 0, _draw_names(draw, before)))
            members.append(flow if len(flow.last) == 1 else _alone(flow.units[0]))
        else:
            members.append(_draw_step(draw, f"{name}.{number}", before))
    needs: list[int | float | str] = ["all", "any_outcome", 0.5, *range(1, min(n_members, 2) + 1)]
    return Group(name, tuple(members), draw(st.sampled_from(needs)))


def _alone(unit: Unit) -> Unit:
    """Return a step of a workflow as it is without the workflow, for which nothing else waited."""
    assert isinstance(unit, Step)
    return replace(unit, inherited=())


def _draw_step(
    draw: st.DrawFn,
    name: str,
    before: list[Unit],
    *,
    inherited: tuple[str, ...] = (),
    has_handlers: bool = False,
) -> Step:
    steps = [unit.name for unit in before if isinstance(unit, Step)]
    groups = [
        unit.name
        for unit in before
        if isinstance(unit, Group) and all(isinstance(each, Step) for each in unit.members)
    ]
    handlers = [
        Step(f"{name}!{kind}", draw(FAILURES))
        if has_handlers and draw(st.integers(0, 3)) == 0
        else None
        for kind in ("failure", "finally")
    ]
    return Step(
        name,
        draw(FAILURES),
        _draw_names(draw, before),
        draw(st.sampled_from([None, *steps])),
        draw(st.sampled_from([None, *groups])),
        inherited,
        *handlers,
    )


def _draw_names(draw: st.DrawFn, before: list[Unit]) -> tuple[str, ...]:
    names = [unit.name for unit in before]
    return tuple(draw(st.lists(st.sampled_from(names), max_size=2, unique=True))) if names else ()
