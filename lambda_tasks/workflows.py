"""Workflows: steps that wait for each other, as chains, groups and any graph of them.

    paid = charge.step(order_id=1, cents=500)
    mailed = send_receipt.step(order_id=1, receipt=paid.result)
    run = workflow("order", mailed).execute_on_commit()

A step begins once all that it waits for has succeeded. Its first steps are sent after the commit;
each other one by whoever ends the last step that it waits for.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    NamedTuple,
    NoReturn,
    Self,
    TypeVar,
    cast,
)
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.transaction import TransactionManagementError
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from . import conf, registry, runtime
from .context import current_run
from .core.foreign_words import OF_STEPS, missing
from .core.graphs import (
    MAX_NAME,
    MAX_STEPS,
    AddedTo,
    Graph,
    GroupNode,
    Node,
    Plan,
    PlannedStep,
    When,
    WorkflowStatus,
    needed,
    plan,
    source_of,
)
from .core.graphs import Place as StepPlace
from .core.lifecycle import SQS_TERMS
from .core.message import Outgoing
from .errors import TaskFailed
from .invocation import pauses
from .ports import StoredStep, StoredWorkflow
from .twins import sync_form

if TYPE_CHECKING:
    from .records.tables import Workflow
    from .records.workflows import Progress

__all__ = [
    "Chain",
    "Group",
    "Results",
    "Step",
    "TaskGroup",
    "WorkflowGraph",
    "WorkflowRun",
    "WorkflowStatus",
    "aadd_steps",
    "add_steps",
    "group",
    "step",
    "workflow",
]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
SelfNode = TypeVar("SelfNode", bound="_Step")


@dataclass(frozen=True, slots=True)
class Reference:
    """The result of a step or a group, passed to another step before there is one."""

    source: Node

    def __repr__(self) -> str:
        return f"<the result of {self.source.label}>"


class _Step(Node):
    """What can wait for others, and what others can wait for."""

    if not TYPE_CHECKING:  # where any name would then be right

        def __getattr__(self, name: str) -> NoReturn:
            # Not repr(): a copy has no label yet when it is asked for what it lacks.
            thing = self.__dict__.get("label", type(self).__name__)
            raise AttributeError(missing(thing, name, OF_STEPS), name=name, obj=self)

    def after(self: SelfNode, *others: "_Step") -> SelfNode:
        """Let this begin only after others have succeeded; return this."""
        for other in others:
            self.wait_for(_checked(other, f"{self.label}.after()"))
        return self

    def on_failure(self: SelfNode, handler: "_Step") -> SelfNode:
        """Let a handler run if this fails, is cancelled, or can't begin; return this.

        The outcome of a handler does not change that of the workflow.
        """
        return self._handle(handler, When.FAILURE, "on_failure")

    def finally_(self: SelfNode, handler: "_Step") -> SelfNode:
        """Let a handler run once this has ended, or can't begin any more; return this."""
        return self._handle(handler, When.END, "finally_")

    def _handle(self: SelfNode, handler: "_Step", when: When, name: str) -> SelfNode:
        self.check_open()
        _checked(handler, f"{self.label}.{name}()").wait_for(self, when)
        self.handlers.append(handler)
        return self


class Step(_Step, Generic[R_co]):
    """A call of a task that is part of a workflow. `task.step(...)` makes one."""

    def __init__(
        self,
        outgoing: Outgoing,
        references: Mapping[str, Reference],
    ) -> None:
        super().__init__()
        self.outgoing = outgoing
        self.references = references
        self.label = outgoing.message.task_name
        for reference in references.values():
            self.wait_for(reference.source)

    def __repr__(self) -> str:
        return f"<Step {self.label} {self.id}>"

    @property
    def id(self) -> UUID:
        """The id of the step's invocation."""
        return self.outgoing.message.invocation_id

    @property
    def result(self) -> R_co:
        """The result of the step, to be passed to another one: a Reference until then."""
        return cast("R_co", Reference(self))


class Group(_Step, GroupNode, Generic[R_co]):
    """Members that run at the same time. group() makes one."""

    def __init__(self, members: "Sequence[Step[R_co]]", need: int, *, fails_fast: bool) -> None:
        GroupNode.__init__(self, members, need, fails_fast=fails_fast)
        self.label = f"a group of {len(members)}"

    def __repr__(self) -> str:
        return f"<Group of {len(self.members)}>"

    @property
    def results(self) -> "Results[R_co]":
        """The results of the members, to be passed to a step that takes Results.

        Raises ValueError where a member is a workflow that ends with a group, so has many results.
        """
        if any(isinstance(source_of(each), GroupNode) for each in self.members):
            raise ValueError(
                f"{self.label} has members that are workflows and end with a group, so each has "
                "many results. End them with one step that takes these."
            )
        return cast("Results[R_co]", Reference(self))


class WorkflowGraph(_Step, Graph):
    """A workflow that can be executed once, or be a step of another. workflow() makes one."""

    def __init__(self, name: str, last: Sequence[Node]) -> None:
        self.name = name
        Graph.__init__(self, f"the workflow {name!r}", last)

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r} of {len(self.nodes)} nodes>"

    @property
    def result(self) -> Any:
        """The result of its last step, to be passed to a step of the workflow around it."""
        source_of(self)
        return Reference(self)

    @sync_form("workflow(...).aexecute_on_commit()")
    def execute_on_commit(self, *, using: str = DEFAULT_DB_ALIAS) -> "WorkflowRun":
        """Store the workflow in the current transaction, and begin it after the commit.

        Outside of a transaction it begins at once. `using` is the database whose transaction it
        joins. Raises ValueError for a workflow that was executed before.
        """
        stored = self._stored()
        runtime.current().enqueuer.enqueue_workflow(stored, using=using)
        return WorkflowRun(stored.id, self.name)

    async def aexecute_on_commit(self, *, using: str = DEFAULT_DB_ALIAS) -> "WorkflowRun":
        """See execute_on_commit()."""
        stored = self._stored()
        await runtime.current().enqueuer.aenqueue_workflow(stored, using=using)
        return WorkflowRun(stored.id, self.name)

    def _stored(self) -> StoredWorkflow:
        if self.owner is not None:
            raise ValueError(
                f"{self.label} is part of {self.owner.label} already. A workflow is executed once: "
                "make another one."
            )
        planned = _plan_of(self)
        self.owner = self
        return _stored_as(self, planned, uuid.uuid4())


def _plan_of(graph: WorkflowGraph, addition: AddedTo | None = None) -> Plan:
    from .records.workflows import max_shards

    queues: dict[Node, Any] = {each: _queue_of(each) for each in _steps_of(graph)}
    planned = plan(graph, max_shards=max_shards(), queues=queues, addition=addition)
    for each in planned.steps:
        if each.waits:
            _refuse_delay(cast("Step[Any]", each.node))
    return planned


def stored_as(graph: WorkflowGraph, id: UUID) -> StoredWorkflow:
    """Return a new workflow as it is stored with an id."""
    graph.owner = graph
    return _stored_as(graph, _plan_of(graph), id)


def _stored_as(graph: WorkflowGraph, planned: Plan, id: UUID) -> StoredWorkflow:
    return StoredWorkflow(
        id=id,
        name=graph.name,
        steps=[StoredStep(_placed(each, planned, id), each.waits) for each in planned.steps],
        joins=planned.joins,
        results=planned.results,
    )


def workflow(name: str, *last: _Step) -> WorkflowGraph:
    """Return a workflow of these last steps, all that they wait for, and their handlers.

    It succeeds if its last steps and groups do. Raises ValueError, naming the step, for steps that
    can't be one workflow: none, one that is part of another, ones that wait for each other in a
    circle, and more than MAX_STEPS.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"A workflow's name has 1 to {MAX_NAME} characters, not {name!r:.80}.")
    if not last:
        raise ValueError(
            f"The workflow {name!r} has no steps. Pass its last ones; those before follow from "
            "them."
        )
    for each in last:
        _checked(each, f"the workflow {name!r}")
    return WorkflowGraph(name, last)


def group(
    members: "Iterable[Step[R] | WorkflowGraph]",
    *,
    need: "str | int | float" = "all",
    fail_fast: bool = False,
) -> Group[R]:
    """Return a group of steps, or of workflows with one last step, that run at the same time.

    `need` says when it succeeds, once all members have ended: if "all" have succeeded, with
    "any_outcome" in any case, or with a number of members, or a share of them as a float. With
    `fail_fast`, the members that have not ended are cancelled once it can't succeed any more.
    """
    if isinstance(members, Node):
        raise TypeError(
            f"The members of a group are {members!r:.80}. Pass a list, also of one: "
            "`group([step])`."
        )
    steps: list[Any] = []
    for member in members:
        if not isinstance(member, Step | WorkflowGraph):
            raise TypeError(
                f"A group has a member {member!r:.80}. Its members are steps, which "
                "`task.step(...)` makes, and workflows."
            )
        source_of(member)
        steps.append(member)
        if len(steps) > MAX_STEPS:
            raise ValueError(
                f"A group has more than {MAX_STEPS} members, the most of a workflow. Let each "
                "member do more, or make several workflows."
            )
    if len(set(steps)) < len(steps):
        twice = next(each for each in steps if steps.count(each) > 1)
        raise ValueError(f"{twice.label} is in a group twice. A step runs once: make another one.")
    return Group(steps, needed(need, len(steps)), fails_fast=fail_fast)


@sync_form("aadd_steps(...)")
def add_steps(*last: _Step) -> None:
    """Add steps to the workflow of the step that runs here, in its own transaction.

    They are what workflow() makes of `last`. The end of the step that runs here stores them, and
    they begin after its commit. What waits for that step waits for them, too. Raises RuntimeError
    outside of a step, or of its transaction; ValueError where the workflow would have more than
    MAX_STEPS; and LeaseLost where it was cancelled.
    """
    from .records.workflows import check_room

    run, alias = current_run.get(), runtime.current().outbox.alias
    if run is None or run.place is None:
        raise RuntimeError(
            "add_steps() is called outside of a step. Call it in a task that a workflow runs."
        )
    if run.additions is None or not connections[alias].in_atomic_block:
        raise RuntimeError(
            f"{run.task_name} adds steps outside of its transaction, so they could be there twice. "
            "Remove `atomic=False` from the task."
        )
    addition = _Addition(workflow(f"what {run.task_name} adds", *last))
    check_room(run.place.workflow_id, addition.n_steps)
    run.additions.append(addition)
    # Not for what it does: Django forgets it when a savepoint is rolled back.
    transaction.on_commit(addition, using=alias)


async def aadd_steps(*last: _Step) -> None:
    """See add_steps()."""
    await sync_to_async(add_steps)(*last)


class _Addition:
    """See context.Addition. It is an on_commit function, too."""

    def __init__(self, graph: WorkflowGraph) -> None:
        self._graph = graph
        self._is_stored = False
        planned = _plan_of(graph)
        self.n_steps, self._n_joins = len(planned.steps), len(planned.joins)
        graph.owner = graph

    def store(self, place: StepPlace) -> StepPlace:
        """See context.Addition. Locks the workflow's row until the end of the transaction."""
        from .records.workflows import reserve

        self._is_stored = True
        if not self.n_steps:
            return place
        id = place.workflow_id
        first_step, first_join = reserve(id, n_steps=self.n_steps, n_joins=self._n_joins)
        planned = _plan_of(self._graph, AddedTo(place, first_step, first_join))
        runtime.current().enqueuer.add_steps(_stored_as(self._graph, planned, id))
        return place.fed_by_addition(planned.joins[-1])

    def __call__(self) -> None:
        """Raise RuntimeError after the commit of another transaction than the step's."""
        if not self._is_stored:
            raise RuntimeError(
                f"{self._graph.label}: add_steps() was called in a transaction on another thread "
                "than the step's, so nothing was added. Call it in the task itself."
            )


def step(task: Any, *args: Any, **kwargs: Any) -> Step[Any]:
    """Return a step that calls a task, one of django.tasks or ours."""
    if hasattr(task, "step"):
        return cast("Step[Any]", task.step(*args, **kwargs))
    backend: Any = getattr(task, "get_backend", lambda: None)()
    if not hasattr(backend, "make_step"):
        raise TypeError(
            f"{task!r:.80} can't be a step. Pass a @lambda_task, or a Django task whose backend in "
            "TASKS is lambda_tasks.backends.LambdaTasksBackend."
        )
    return cast("Step[Any]", backend.make_step(task, args, kwargs))


def references_in(kwargs: Mapping[str, Any]) -> dict[str, Reference]:
    """Return the arguments that are results of other steps."""
    return {name: value for name, value in kwargs.items() if isinstance(value, Reference)}


def _checked(node: object, where: str) -> _Step:
    if isinstance(node, _Step):
        return node
    hint = ""
    if isinstance(node, Reference):
        hint = f" Pass the step itself: {node.source.label}."
    elif hasattr(node, "step"):
        hint = " Call `.step(...)` on the task."
    raise TypeError(f"{where} got {node!r:.80}, and takes steps, groups and workflows only.{hint}")


def _refuse_delay(node: "Step[Any]") -> None:
    if node.outgoing.delay_s:
        raise ValueError(
            f"{node.label} waits for other steps and has a delay of {node.outgoing.delay_s} s, "
            "which would count from the call. Give it a `run_after`, or no delay."
        )


def _steps_of(graph: Graph) -> Iterator["Step[Any]"]:
    for node in graph.nodes:
        if isinstance(node, Graph):
            yield from _steps_of(node)
        elif isinstance(node, Step):
            yield node


def _queue_of(node: "Step[Any]") -> tuple[str, tuple[float, float]]:
    look = node.outgoing.look
    return node.outgoing.queue, (look.grace.total_seconds(), look.ahead.total_seconds())


def _placed(planned: PlannedStep, whole: Plan, id: UUID) -> Outgoing:
    """Return the message of a step with its place.

    On a standard queue of SQS a workflow is a group of messages, so that all others pass a wide
    one (fair queues).
    """
    node = cast("Step[Any]", planned.node)
    inputs = {name: whole.input_of(each.source) for name, each in node.references.items()}
    outgoing, message = node.outgoing, node.outgoing.message
    group_key = message.group_key
    if group_key is None and outgoing.look == SQS_TERMS:
        group_key = str(id)
    place = StepPlace(id, planned.number, planned.feeds, inputs)
    return replace(outgoing, message=replace(message, place=place, group_key=group_key))


class Chain:
    """Tasks of which each begins once the one before it has succeeded. `task.then(...)` makes one.

    The call forms take the arguments of the first one.
    """

    def __init__(self, first: Any, links: "Sequence[_Link]") -> None:
        self._first = first
        self._links = links

    def __repr__(self) -> str:
        return (
            f"<Chain {' -> '.join([self._first.name, *(each.task.name for each in self._links)])}>"
        )

    def then(self, task: Any, /, *, result_as: str | None = None, **kwargs: Any) -> "Chain":
        """Return a chain that goes on with another task.

        `result_as` names the parameter that takes the result of the task before it.
        """
        if not hasattr(task, "step"):
            raise TypeError(f"{task!r:.80} can't be a step of a chain. Pass a @lambda_task.")
        return Chain(self._first, [*self._links, _Link(task, kwargs, result_as)])

    def build(self, /, *args: Any, **kwargs: Any) -> WorkflowGraph:
        """Return the chain as a workflow, which nothing has stored yet."""
        last: Step[Any] = self._first.step(*args, **kwargs)
        for link in self._links:
            passed = {} if link.result_as is None else {link.result_as: last.result}
            last = link.task.step(**link.kwargs, **passed).after(last)
        return workflow(self._first.name, last)

    @sync_form("chain.aexecute_on_commit(...)")
    def execute_on_commit(self, /, *args: Any, **kwargs: Any) -> "WorkflowRun":
        """Execute the chain. See WorkflowGraph.execute_on_commit()."""
        return self.build(*args, **kwargs).execute_on_commit(using=self._first.using_alias)

    async def aexecute_on_commit(self, /, *args: Any, **kwargs: Any) -> "WorkflowRun":
        """See execute_on_commit()."""
        graph = self.build(*args, **kwargs)
        return await graph.aexecute_on_commit(using=self._first.using_alias)


class _Link(NamedTuple):
    """A task of a chain, with its arguments."""

    task: Any
    kwargs: Mapping[str, Any]
    result_as: str | None


class TaskGroup:
    """Tasks that run at the same time, and one that follows once all have succeeded."""

    class Status(StrEnum):
        """The statuses of a group."""

        PENDING = "PENDING"
        SUCCESS = "SUCCESS"
        FAILED = "FAILED"

    def __init__(self, id: UUID) -> None:
        self.run = WorkflowRun(id)
        """The workflow that the group is."""

    def __repr__(self) -> str:
        return f"<TaskGroup {self.id}>"

    @property
    def id(self) -> UUID:
        """The id by which it is found again: `TaskGroup(id)`."""
        return self.run.id

    @classmethod
    @sync_form("TaskGroup.acreate(...)")
    def create(
        cls,
        members: "Iterable[Step[Any]]",
        *,
        then: Any = None,
        name: str = "group",
        using: str = DEFAULT_DB_ALIAS,
    ) -> Self:
        """Execute steps when the current transaction commits, and then `then`, a step or a task.

        It runs once, after all of them have succeeded; at once if there are none.
        """
        return cls(_group_graph(members, then, name).execute_on_commit(using=using).id)

    @classmethod
    async def acreate(
        cls,
        members: "Iterable[Step[Any]]",
        *,
        then: Any = None,
        name: str = "group",
        using: str = DEFAULT_DB_ALIAS,
    ) -> Self:
        """See create()."""
        return cls((await _group_graph(members, then, name).aexecute_on_commit(using=using)).id)

    @sync_form("group.astatus()")
    def status(self) -> "TaskGroup.Status":
        """Return PENDING, SUCCESS, or FAILED, also for one that was cancelled."""
        return _GROUP_STATUS[self.run.status()]

    async def astatus(self) -> "TaskGroup.Status":
        """See status()."""
        return await sync_to_async(self.status)()

    @sync_form("group.aprogress()")
    def progress(self) -> "Progress":
        """Return how many tasks have ended, of how many, and how many have failed."""
        return self.run.progress()

    async def aprogress(self) -> "Progress":
        """See progress()."""
        return await self.run.aprogress()


_GROUP_STATUS: Final = {
    WorkflowStatus.RUNNING: TaskGroup.Status.PENDING,
    WorkflowStatus.SUCCESS: TaskGroup.Status.SUCCESS,
    WorkflowStatus.FAILED: TaskGroup.Status.FAILED,
    WorkflowStatus.CANCELLED: TaskGroup.Status.FAILED,
}


def _group_graph(members: "Iterable[Step[Any]]", then: Any, name: str) -> WorkflowGraph:
    grouped = group(members)
    if then is None:
        return workflow(name, grouped)
    following = then if isinstance(then, _Step) else step(then)
    return workflow(name, following.after(grouped))


class Results(Sequence[R_co]):
    """The results of the members of a group that have succeeded, in the order of the members.

    They are read from the database page by page. Annotate a parameter with `Results[int]`, and pass
    `group.results` for it.
    """

    def __init__(
        self, *, workflow_id: UUID, values: Sequence[Sequence[int]], total: int, failed: int
    ) -> None:
        self.workflow_id = workflow_id
        self.total = total
        """The number of members."""
        self.failed = failed
        """The number of members that have not succeeded."""
        self._values = values

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic read what the claim of a step has found."""
        return core_schema.json_or_python_schema(
            core_schema.no_info_plain_validator_function(cls.from_json),
            core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(cls._to_json),
        )

    @classmethod
    def from_json(cls, value: Any) -> "Results[Any]":
        """Return the results that a claim has found. Raises ValueError for anything else."""
        if isinstance(value, Mapping) and value.keys() == {
            "workflow_id", "values", "total", "failed"
        }:  # fmt: skip
            return cls(**{**value, "workflow_id": UUID(value["workflow_id"])})
        raise ValueError("these are no results of a group")

    def _to_json(self) -> dict[str, Any]:
        return {
            "workflow_id": str(self.workflow_id),
            "values": self._values,
            "total": self.total,
            "failed": self.failed,
        }

    def __repr__(self) -> str:
        return f"<Results of {self.total} members, {self.failed} failed>"

    def __len__(self) -> int:
        return self.total - self.failed

    def __iter__(self) -> Iterator[R_co]:
        for _, result in self.items():
            yield result

    async def __aiter__(self) -> AsyncIterator[R_co]:
        pages = self._pages()
        while (page := await sync_to_async(lambda: next(pages, None))()) is not None:
            for _, result in page:
                yield result

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        position = range(len(self))[index]
        for number, result in enumerate(self):
            if number == position:
                return result
        raise IndexError(index)

    def items(self) -> Iterator[tuple[int, R_co]]:
        """Yield the position of each member that has succeeded, from 0, and its result."""
        for page in self._pages():
            yield from page

    def _pages(self) -> Iterator[list[tuple[int, R_co]]]:
        from .records.workflows import read_pages

        for page in read_pages(self.workflow_id, self._values):
            yield [(position, _typed(task_name, value)) for position, task_name, value in page]


def _typed(task_name: str, value: Any) -> Any:
    task = registry.find_task(task_name)
    return value if task is None else task.result_from_json(value)


@dataclass(frozen=True)
class WorkflowRun:
    """The handle on a workflow that was executed. Can be made of an id that was kept."""

    id: UUID
    name: str = ""
    """The name of the workflow. It is for display only."""

    def __repr__(self) -> str:
        return f"<WorkflowRun {self.id} of {self.name or 'a workflow'}>"

    @sync_form("run.astatus()")
    def status(self) -> WorkflowStatus:
        """Return the status: RUNNING, SUCCESS, FAILED or CANCELLED.

        FAILED is one that can't succeed any more, once nothing of it runs; retry_failed() makes it
        RUNNING again. Raises LookupError where no such workflow is stored (yet).
        """
        return WorkflowStatus(self._stored().status)

    async def astatus(self) -> WorkflowStatus:
        """See status()."""
        return await sync_to_async(self.status)()

    @sync_form("run.aprogress()")
    def progress(self) -> "Progress":
        """Return how many steps have ended (`done`), of how many (`total`), and `failed` ones."""
        from .records import workflows

        self._stored()
        return workflows.progress(self.id)

    async def aprogress(self) -> "Progress":
        """See progress()."""
        return await sync_to_async(self.progress)()

    @sync_form("run.acancel()")
    def cancel(self) -> bool:
        """Cancel the workflow and all its steps; return False where it was over.

        What runs can't commit any more.
        """
        from .records import workflows

        return workflows.cancel(self.id)

    async def acancel(self) -> bool:
        """See cancel()."""
        return await sync_to_async(self.cancel)()

    @sync_form("run.aretry_failed()")
    def retry_failed(self) -> int:
        """Run failed and cancelled steps again, as the same invocations; return how many.

        Attempts and retries count from 0. Steps that wait for them run once they have succeeded. A
        workflow that has succeeded or was cancelled is over: then none is retried.
        """
        from .records import steering, workflows

        look_terms = conf.current().look_terms
        failed = workflows.failed_steps(self.id)
        # A worker that had a message before the commit would find that its step has failed.
        done = steering.reopen(failed, workflows.refuse_retry, look_terms, dry_run=False).done
        if done:
            messages = steering.stored_messages(done, look_terms)
            runtime.current().enqueuer.send_after_commit(messages)
        return len(done)

    async def aretry_failed(self) -> int:
        """See retry_failed()."""
        return await sync_to_async(self.retry_failed)()

    @sync_form("run.aresult(...)")
    def result(self, timeout: float | None = None) -> Any:
        """Wait for the workflow to succeed, and return the result of its last step.

        With several last steps it is a list of their results; that of a group is a list too. For
        scripts and tests. Raises TaskFailed where the workflow ends otherwise, and TimeoutError
        after `timeout` seconds; None waits for ever.
        """
        for pause_s in pauses(self, timeout):
            if (stored := self._find_finished()) is not None:
                return self._result_of(stored)
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    async def aresult(self, timeout: float | None = None) -> Any:
        """See result()."""
        for pause_s in pauses(self, timeout):
            if (stored := await sync_to_async(self._find_finished)()) is not None:
                return await sync_to_async(self._result_of)(stored)
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _stored(self) -> "Workflow":
        from .records import workflows

        stored = workflows.find(self.id)
        if stored is None:
            raise LookupError(
                f"There is no workflow {self.id}: it is not committed yet, or was cleaned up."
            )
        return stored

    def _find_finished(self) -> "Workflow | None":
        from .records import workflows

        stored = workflows.find(self.id)
        if stored is not None and stored.status != WorkflowStatus.RUNNING:
            return stored
        if runtime.current().enqueuer.waits_for_commit(self.id):
            raise TransactionManagementError(
                f"{self!r} was executed in a transaction that is still open, and begins only after "
                "its commit. Wait for the result after the `with transaction.atomic():` block. In "
                "a TestCase, run what was enqueued with lambda_tasks.testing.capture_tasks()."
            )
        return None

    def _result_of(self, stored: "Workflow") -> Any:
        from .records import workflows

        if stored.status != WorkflowStatus.SUCCESS:
            reasons = "\n\n".join(f"{name}:\n{text}" for name, text in workflows.errors(self.id))
            raise TaskFailed(f"The {self!r} is {stored.status}.\n\n{reasons}".rstrip())
        values = [self._value_of(source) for source in stored.results]
        return values[0] if len(values) == 1 else values

    def _value_of(self, source: Any) -> Any:
        from .records import workflows

        if isinstance(source[0], list):
            return [self._value_of(each) for each in source]
        kind, number = source
        if kind == "step":
            return _typed(*workflows.read_step(self.id, number))
        found = workflows.read_group(self.id, number) if number is not None else None
        return [] if found is None else list(Results.from_json(found))


def refuse_unusable(task_name: str, *, is_unique: bool, is_direct: bool) -> None:
    """Raise TypeError where a task can't be a step."""
    if is_unique:
        raise TypeError(
            f"{task_name} is unique, so its call may join an earlier one, which is no step of this "
            "workflow. Make a task without `unique_by` for the step."
        )
    if is_direct:
        raise TypeError(
            f"{task_name} is declared with durable=False, and a step must be stored. Declare the "
            "task without it."
        )
