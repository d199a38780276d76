"""Workflows as graphs: which steps wait for which others, and what each end is counted for.

A *join* waits for the ends of several inputs and decides once: is it satisfied or not? Each step
that waits for others has a join, its *gate*, which releases it; steps that wait for the same inputs
share one. Groups and nested workflows are joins that release nothing and are inputs of others. The
last join, ROOT, ends the workflow.

A step feeds the joins that it is an input of. If a gate is not satisfied, its steps never run, and
count as failed for the joins that they feed. Joins have numbers, and each feeds joins with higher
numbers only: whoever counts in this order can't deadlock with others who do.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from .pickling import pickled_by_position

MAX_STEPS: Final = 100_000
"""The most steps of a workflow, so that all of it can be stored in one transaction."""

MAX_NAME: Final = 255
"""The most characters of a workflow's name; the column allows these."""

ROOT: Final = 2**31 - 1
"""The number of the join that ends the workflow: the highest one."""

HUB: Final = -1
"""The shard that counts the open shards of a wide join."""

MAX_NARROW: Final = 32
"""The most inputs of a join with a single count."""

MAX_SHARDS: Final = 64
"""The most counts of a wide join. One count takes some hundred ends a second, as each waits for
the commit of the one before it."""


class WorkflowStatus(StrEnum):
    """The values of a workflow's `status`."""

    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class When(IntEnum):
    """What an input must do to satisfy the join that it feeds."""

    SUCCESS = 0
    END = 1
    FAILURE = 2
    FAST_SUCCESS = 3
    """SUCCESS; after a failure, the other inputs are cancelled if the join can't be satisfied."""

    def is_satisfied(self, succeeded: bool) -> bool:
        """Return whether an input that has ended like this satisfies the join."""
        if self is When.END:
            return True
        return succeeded is not (self is When.FAILURE)


class Feed(NamedTuple):
    """What an input of a join is counted as when it ends."""

    number: int
    shard: int
    when: int
    n: int = 1
    """The number of inputs: steps that end together, as their gate is not satisfied."""

    @property
    def order(self) -> tuple[int, float]:
        """The order in which counts are locked."""
        return lock_order(self.number, self.shard)


def lock_order(number: int, shard: int) -> tuple[int, float]:
    """Return the key by which counts are locked: joins by number, the hub behind its shards."""
    return number, math.inf if shard == HUB else shard


class Count(NamedTuple):
    """What ends add to one count of a join."""

    ended: int
    failed: int

    def __add__(self, other: Any) -> "Count":
        return Count(self.ended + other.ended, self.failed + other.failed)

    def __neg__(self) -> "Count":
        return Count(-self.ended, -self.failed)


Counts = dict[tuple[int, int], Count]
"""Counts by the number of the join and of its shard."""


def add_ends(counts: Counts, feeds: Iterable[Feed], *, succeeded: bool, n_ends: int = 1) -> None:
    """Add ends of one kind to the counts that each of them feeds."""
    for feed in feeds:
        ended = feed.n * n_ends
        failed = 0 if When(feed.when).is_satisfied(succeeded) else ended
        key = feed.number, feed.shard
        counts[key] = counts.get(key, Count(0, 0)) + Count(ended, failed)


@pickled_by_position
@dataclass(frozen=True, slots=True)
class Place:
    """The place of a run in its workflow. Its retries and further runs take it over."""

    workflow_id: UUID
    step: int
    feeds: tuple[Feed, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """The arguments that are results of others, by name or position: ["step", number] for the
    result of a step, ["group", number of the join] for those of a group, None for an empty one."""

    def fed_by_addition(self, join: "PlannedJoin") -> "Place":
        """Return the place of a step that has added others: it feeds the last join of these."""
        return replace(self, feeds=(Feed(join.number, 0, When.SUCCESS),))

    def links(self) -> dict[str, Any]:
        """Return feeds and inputs as JSON values."""
        return {"feeds": self.feeds, "inputs": self.inputs}


def read_feeds(values: Iterable[Sequence[int]]) -> tuple[Feed, ...]:
    """Return feeds that were stored as JSON."""
    return tuple(Feed(*each) for each in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a join waits for, and what then follows."""

    total: int
    """The number of inputs."""
    need: int
    """The number of inputs that must be satisfied."""
    first: int = 0
    stop: int = 0
    """The numbers of the steps that it releases: from `first`, and below `stop`."""
    feeds: tuple[Feed, ...] = ()
    """The joins that it feeds: itself, or the steps that it does not release."""
    queues: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """For each queue of these steps the seconds after which somebody must look at a record, and
    the seconds before it is due, as its LookTerms have them."""
    values: Sequence[Sequence[int]] = ()
    """The numbers of the steps whose results the group has, in order, as ranges."""
    wakes: Sequence[Any] = ()
    """The run of a durable function that the end of the workflow wakes, and the seconds after which
    somebody must look at it; empty for none."""

    @property
    def is_gate(self) -> bool:
        """Whether it releases steps."""
        return self.first < self.stop

    def to_json(self) -> dict[str, Any]:
        """Return the terms as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the terms that were stored."""
        return cls(**{**values, "feeds": read_feeds(values["feeds"])})


class Node:
    """A part of a graph: a step, a group, or a workflow within another."""

    label = "a node"
    """What errors call it."""

    def __init__(self) -> None:
        self.edges: list[Edge] = []
        """The inputs that it waits for."""
        self.handlers: list[Node] = []
        """The nodes that wait for it although they are no part of its results."""
        self.owner: Graph | None = None
        """The workflow that it is part of."""

    def wait_for(self, other: "Node", when: When = When.SUCCESS) -> None:
        """Let this node begin once another one has ended."""
        self.check_open()
        edge = Edge(other, when)
        if edge not in self.edges:
            self.edges.append(edge)

    def check_open(self) -> None:
        """Raise ValueError where a workflow has collected this node already."""
        if self.owner is not None:
            raise ValueError(
                f"{self.label} is part of {self.owner.label} already. Say what it waits for, and "
                "its handlers, before you make the workflow."
            )


class Edge(NamedTuple):
    """An input of a node."""

    source: Node
    when: When


class GroupNode(Node):
    """A group of members, which is satisfied if enough of them are."""

    def __init__(self, members: Sequence[Node], need: int, *, fails_fast: bool) -> None:
        super().__init__()
        self.members = members
        self.need = need
        self.fails_fast = fails_fast

    def wait_for(self, other: Node, when: When = When.SUCCESS) -> None:
        """Let the members begin once another node has ended; without any, what follows them."""
        for member in self.members:
            member.wait_for(other, when)
        if not self.members:
            super().wait_for(other, when)

    @property
    def inputs(self) -> list[Edge]:
        """The members, as inputs of the group's join."""
        when = When.FAST_SUCCESS if self.fails_fast else When.SUCCESS
        return [Edge(member, when) for member in self.members]


class Graph(Node):
    """A workflow: all nodes that lead to its last ones, and the handlers of these."""

    def __init__(self, label: str, goals: Sequence[Node]) -> None:
        super().__init__()
        self.label = label
        self.goals = goals
        self.nodes = _collect(self, goals)
        for node in self.nodes:
            node.owner = self

    @property
    def inputs(self) -> list[Edge]:
        """What it waits for at its end: its last nodes, and all that nobody else waits for."""
        awaited = {edge.source for node in self.nodes for edge in _awaited(node)}
        goals = dict.fromkeys(self.goals)
        ends = [each for each in self.nodes if each not in awaited and each not in goals]
        return [
            *(Edge(goal, When.SUCCESS) for goal in goals),
            *(Edge(end, When.END) for end in ends),
        ]


def _awaited(node: Node) -> list[Edge]:
    return [*node.edges, *(node.inputs if isinstance(node, GroupNode) else [])]


def _collect(graph: Graph, goals: Sequence[Node]) -> list[Node]:
    """Return all nodes of a new workflow. Raises ValueError where they can't be one."""
    found = dict.fromkeys(goals)
    waiting = deque(found)
    while waiting:
        node = waiting.popleft()
        for other in (*(edge.source for edge in _awaited(node)), *node.handlers):
            if other not in found:
                found[other] = None
                waiting.append(other)
    for node in found:
        if node.owner is not None:
            raise ValueError(
                f"{graph.label}: {node.label} is part of {node.owner.label} already. A step runs "
                "once: make another one, or pass the whole workflow as a step."
            )
    if len(found) > MAX_STEPS:
        raise ValueError(
            f"{graph.label} has {len(found)} steps, and a workflow has at most {MAX_STEPS}. Let "
            "each step do more, or split it into several workflows."
        )
    _refuse_cycle(graph, list(found))
    return list(found)


def _refuse_cycle(graph: Graph, nodes: Sequence[Node]) -> None:
    edges = {node: _awaited(node) for node in nodes}
    left = set(nodes) - set(_in_order(edges))
    if not left:
        return
    path = [next(node for node in nodes if node in left)]
    while path[-1] not in path[:-1]:
        path.append(next(edge.source for edge in edges[path[-1]] if edge.source in left))
    circle = path[path.index(path[-1]) :]
    raise ValueError(
        f"{graph.label}: each of these steps waits for the next, and none could begin: "
        f"{' -> '.join(node.label for node in circle)}. Remove one of their `.after(...)`."
    )


def _in_order(edges: Mapping[Node, Sequence[Edge]]) -> Iterator[Node]:
    """Yield the nodes, each after all that it waits for; those in cycles are left out."""
    consumers: dict[Node, list[Node]] = {node: [] for node in edges}
    missing = {node: len(inputs) for node, inputs in edges.items()}
    for node, inputs in edges.items():
        for edge in inputs:
            consumers[edge.source].append(node)
    ready = deque(node for node, n in missing.items() if not n)
    while ready:
        node = ready.popleft()
        yield node
        for consumer in consumers[node]:
            missing[consumer] -= 1
            if not missing[consumer]:
                ready.append(consumer)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step with its number, and what its end is counted for."""

    node: Node
    number: int
    feeds: tuple[Feed, ...]
    waits: bool


@dataclass(frozen=True, slots=True)
class PlannedJoin:
    """A join with its counts: of each shard, the inputs that it waits for."""

    number: int
    shards: Sequence[int]
    terms: Terms


@dataclass(frozen=True, slots=True)
class Plan:
    """A workflow as it is stored."""

    steps: Sequence[PlannedStep]
    joins: Sequence[PlannedJoin]
    numbers: Mapping[Node, int]
    """The numbers of the steps, and those of the joins of groups."""
    results: Sequence[Any]
    """The results of the last nodes: ["step", number] or ["group", number of the join]."""

    def input_of(self, node: Node) -> list[Any]:
        """Return where the result of a node is, as Place has it. See source_of()."""
        source = source_of(node)
        return ["group" if isinstance(source, GroupNode) else "step", self.numbers.get(source)]


def source_of(node: Node) -> Node:
    """Return the step or group that has the result of a node.

    Raises ValueError for a workflow with several last nodes.
    """
    while isinstance(node, Graph):
        if len(node.goals) != 1:
            raise ValueError(
                f"{node.label} has {len(node.goals)} last steps, so it has no single result. End "
                "it with one step that takes the results of the others."
            )
        (node,) = node.goals
    return node


@dataclass(frozen=True, slots=True)
class AddedTo:
    """Where steps are added to a workflow that runs, by one of its steps."""

    by: Place
    first_step: int
    first_join: int
    """The lowest number of the new joins. They are below all others, which they feed."""


def plan(
    graph: Graph,
    *,
    max_shards: int,
    queues: Mapping[Node, Any],
    addition: AddedTo | None = None,
) -> Plan:
    """Return how a workflow is stored. `queues` has the name and look terms of each step's queue.

    An `addition` counts as part of the step that makes it: what waits for that step waits for the
    new ones, too. Raises ValueError for a handler that could never run.
    """
    return _Planner(graph, max_shards, queues, addition).plan()


class _Join:
    """A join that is being planned."""

    def __init__(self, number: int, inputs: Sequence[Edge], need: int) -> None:
        self.number = number
        self.inputs = inputs
        self.need = need
        self.steps: Sequence[Node] = []
        self.node: Node | None = None


class _Planner:
    def __init__(
        self,
        graph: Graph,
        max_shards: int,
        queues: Mapping[Node, Any],
        addition: AddedTo | None,
    ) -> None:
        self._graph = graph
        self._addition = addition
        self._first_step = 0 if addition is None else addition.first_step
        self._first_join = 0 if addition is None else addition.first_join
        self._max_shards = max_shards
        self._queues = queues
        self._edges: dict[Node, list[Edge]] = {}
        self._numbers: dict[Node, int] = {}
        self._steps: list[Node] = []
        self._joins: list[_Join] = []

    def plan(self) -> Plan:
        self._flatten(self._graph, [])
        self._number()
        if len(self._steps) > MAX_STEPS:
            raise ValueError(
                f"{self._graph.label} has {len(self._steps)} steps with those of the workflows in "
                f"it, and a workflow has at most {MAX_STEPS}. Split it into several."
            )
        root_inputs = self._filled(self._graph.inputs)
        last = ROOT if self._addition is None else self._first_join + len(self._joins)
        root = _Join(last, root_inputs, len(root_inputs))
        joins = [*self._joins, root]
        feeds = self._feeds(joins)
        numbers = self._numbers
        waiting = {step for join in joins for step in join.steps}
        steps = [
            PlannedStep(step, numbers[step], tuple(feeds[step]), step in waiting)
            for step in self._steps
        ]
        planned = [self._planned(join, feeds) for join in joins]
        if self._addition is not None:
            planned[-1] = _joined_by(self._addition.by, planned[-1])
        return Plan(steps, planned, numbers, [self._source(goal) for goal in self._graph.goals])

    def _source(self, goal: Node) -> Any:
        if isinstance(goal, Graph):
            return [self._source(each) for each in goal.goals]
        return ["group" if isinstance(goal, GroupNode) else "step", self._numbers.get(goal)]

    def _flatten(self, graph: Graph, entries: Sequence[Edge]) -> None:
        """Note the inputs of all nodes. A workflow's first steps wait for what it waits for."""
        for node in graph.nodes:
            edges = self._filled(node.edges)
            if isinstance(node, Graph):
                self._flatten(node, edges or entries)
                self._edges[node] = self._filled(node.inputs)
            elif isinstance(node, GroupNode):
                self._edges[node] = [each for each in node.inputs if not _is_empty(each.source)]
            else:
                self._edges[node] = edges or list(entries)

    def _filled(self, edges: Sequence[Edge]) -> list[Edge]:
        """Return the inputs with what empty groups wait for in their place: they do nothing."""
        filled: list[Edge] = []
        for edge in edges:
            if not _is_empty(edge.source):
                filled.append(edge)
            elif edge.when is When.FAILURE:
                raise ValueError(f"{edge.source.label} is empty and can't fail.")
            else:
                before = edge.source.edges
                is_end = edge.when is When.END
                filled += self._filled(
                    [Edge(each.source, When.END) for each in before] if is_end else before
                )
        return list(dict.fromkeys(filled))

    def _number(self) -> None:
        """Give steps and joins their numbers, each behind all that it waits for."""
        gates: dict[tuple[Edge, ...], list[Node]] = {}
        for node, edges in self._edges.items():
            if not isinstance(node, Graph | GroupNode):
                gates.setdefault(tuple(edges), []).append(node)
        for node in _in_order(self._edges):
            edges = self._edges[node]
            if not isinstance(node, Graph | GroupNode):
                self._number_steps(edges, gates.pop(tuple(edges), []))
            elif edges:
                join = self._add_join(edges, _needed_of(node, len(edges)))
                join.node, self._numbers[node] = node, join.number

    def _number_steps(self, edges: Sequence[Edge], steps: Sequence[Node]) -> None:
        """Give steps with the same inputs their numbers, one after the other: they are a range."""
        if edges and steps:
            self._add_join(edges, len(edges)).steps = steps
        for step in steps:
            self._numbers[step] = self._first_step + len(self._steps)
            self._steps.append(step)

    def _add_join(self, inputs: Sequence[Edge], need: int) -> _Join:
        join = _Join(self._first_join + len(self._joins), inputs, need)
        self._joins.append(join)
        return join

    def _feeds(self, joins: Sequence[_Join]) -> dict[Node, list[Feed]]:
        feeds: dict[Node, list[Feed]] = {node: [] for node in self._edges}
        for join in joins:
            total = len(join.inputs)
            n_shards = self._shards(total)
            for position, edge in enumerate(join.inputs):
                shard = position * n_shards // total
                feeds[edge.source].append(Feed(join.number, shard, edge.when))
        return feeds

    def _shards(self, total: int) -> int:
        if total <= MAX_NARROW:
            return 1
        return max(1, min(self._max_shards, MAX_SHARDS, total // MAX_NARROW))

    def _planned(self, join: _Join, feeds: Mapping[Node, Sequence[Feed]]) -> PlannedJoin:
        total = len(join.inputs)
        n_shards = self._shards(total)
        shards = [0] * n_shards
        for position in range(total):
            shards[position * n_shards // total] += 1
        sources = join.steps if join.steps else [join.node] if join.node else []
        first = self._numbers[join.steps[0]] if join.steps else 0
        node = join.node
        terms = Terms(
            total=total,
            need=join.need,
            first=first,
            stop=first + len(join.steps),
            feeds=_merged(feed for source in sources for feed in feeds[source]),
            queues=dict(self._queues[step] for step in join.steps),
            values=self._values(node) if isinstance(node, GroupNode) else (),
        )
        return PlannedJoin(join.number, shards, terms)

    def _values(self, group: GroupNode) -> list[list[int]]:
        sources = map(source_of, group.members)
        return as_ranges(self._numbers[each] for each in sources if not isinstance(each, GroupNode))


def _joined_by(step: Place, join: PlannedJoin) -> PlannedJoin:
    """Return the last join of an addition: it waits for the step, too, and feeds what that fed."""
    terms = join.terms
    terms = replace(terms, total=terms.total + 1, need=terms.need + 1, feeds=step.feeds)
    return PlannedJoin(join.number, [join.shards[0] + 1, *join.shards[1:]], terms)


def _is_empty(node: Node) -> bool:
    """Return whether nothing of a node ever runs: then it is satisfied from the start."""
    if isinstance(node, GroupNode):
        return all(_is_empty(each) for each in node.members)
    return isinstance(node, Graph) and all(_is_empty(each) for each in node.nodes)


def _needed_of(node: Node, n_inputs: int) -> int:
    """Return how many of the inputs of a group or workflow must be satisfied."""
    if not isinstance(node, GroupNode):
        return n_inputs
    n_empty = len(node.members) - n_inputs
    return max(0, node.need - n_empty)


def _merged(feeds: Iterable[Feed]) -> tuple[Feed, ...]:
    """Return feeds with those of the same count and kind as one."""
    merged: dict[tuple[int, int, int], int] = {}
    for number, shard, when, n in feeds:
        key = number, shard, when
        merged[key] = merged.get(key, 0) + n
    return tuple(Feed(*key, n) for key, n in merged.items())


def as_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Return numbers in their order as ranges, each with its first number and the one behind it."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1][1] += 1
        else:
            ranges.append([number, number + 1])
    return ranges


def needed(need: object, total: int) -> int:
    """Return how many of the members of a group must succeed.

    `need` is "all", "any_outcome", a number, or a share from 0 to 1 as a float. Raises ValueError
    for anything else, and for more members than there are.
    """
    if need == "all":
        return total
    if need == "any_outcome":
        return 0
    if isinstance(need, float) and 0 < need <= 1:
        return math.ceil(round(need * total, 6))
    if isinstance(need, int) and not isinstance(need, bool) and need >= 0:
        if need > total:
            raise ValueError(f"need is {need}, but the group has {total} members only.")
        return need
    raise ValueError(
        f'need is {need!r}. Use "all", "any_outcome", the number of members that must succeed, or '
        "their share as a float, such as 0.95."
    )
