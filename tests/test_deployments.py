"""The table of docs/deployments.md: two releases of a project play each of its lines."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from lambda_tasks.local import LocalSqs
from tests.releases import Queues, Release, running

PAGE = (Path(__file__).parents[1] / "docs" / "deployments.md").read_text()

KINDS: Final = ("standard", "fifo", "table")

OLD_TASKS: Final = """
from lambda_tasks import lambda_task

@lambda_task
async def default_added(*, a: int) -> int:
    return a

@lambda_task
async def required_added(*, a: int) -> int:
    return a

@lambda_task
async def default_removed(*, a: int, b: int = 1) -> int:
    return a

@lambda_task
async def required_removed(*, a: int, b: int) -> int:
    return a

@lambda_task
async def renamed_argument(*, a: int, before: int) -> int:
    return a

@lambda_task
async def another_type(*, a: int, key: int = 0) -> int:
    return a

@lambda_task
async def removed(*, a: int) -> int:
    return a

@lambda_task
async def before_alias(*, a: int) -> int:
    return a

@lambda_task
async def before_rename(*, a: int) -> int:
    return a

@lambda_task
def recoloured(*, a: int) -> int:
    return a
"""

NEW_TASKS: Final = """
from lambda_tasks import lambda_task

@lambda_task
async def default_added(*, a: int, b: int = 1) -> int:
    return a

@lambda_task
async def required_added(*, a: int, b: int) -> int:
    return a

@lambda_task
async def default_removed(*, a: int) -> int:
    return a

@lambda_task
async def required_removed(*, a: int) -> int:
    return a

@lambda_task
async def renamed_argument(*, a: int, after: int) -> int:
    return a

@lambda_task
async def another_type(*, a: int, key: str = "") -> int:
    return a

@lambda_task
async def added(*, a: int) -> int:
    return a

@lambda_task(aliases=("shop.tasks.before_alias",))
async def after_alias(*, a: int) -> int:
    return a

@lambda_task
async def after_rename(*, a: int) -> int:
    return a

@lambda_task
async def recoloured(*, a: int) -> int:
    return a
"""

MOVED: Final = """
@lambda_task(queue="{queue}")
async def moved_{kind}(*, a: int) -> int:
    return a
"""


class Call(NamedTuple):
    """A call of one release that meets the code of the other one."""

    task: str
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
    waits: bool = True


@dataclass(frozen=True)
class Line:
    """A line of the table: its change, and the calls of both releases."""

    change: str
    old: tuple[Call, ...] = ()
    new: tuple[Call, ...] = ()
    fails: bool = False
    """Whether no release is left that could run what waits."""


LINES: Final = (
    Line(
        "an argument with a default is added",
        old=(Call("default_added", waits=False),),
        new=(Call("default_added", {"b": 2}), Call("default_added", waits=False)),
    ),
    Line(
        "an argument without a default is added",
        old=(Call("required_added"),),
        new=(Call("required_added", {"b": 2}),),
    ),
    Line(
        "an argument with a default is removed",
        old=(Call("default_removed", {"b": 2}), Call("default_removed", waits=False)),
        new=(Call("default_removed", waits=False),),
    ),
    Line(
        "an argument without a default is removed",
        old=(Call("required_removed", {"b": 2}),),
        new=(Call("required_removed"),),
    ),
    Line(
        "an argument is renamed",
        old=(Call("renamed_argument", {"before": 2}),),
        new=(Call("renamed_argument", {"after": 2}),),
    ),
    Line(
        "an argument has another type",
        old=(Call("another_type", {"key": 2}), Call("another_type", waits=False)),
        new=(Call("another_type", {"key": "two"}), Call("another_type", waits=False)),
    ),
    Line("a task is added", new=(Call("added"),)),
    Line("a task is removed", old=(Call("removed"),), fails=True),
    Line(
        "a task is renamed or moved, its old name in `aliases`",
        old=(Call("before_alias", waits=False),),
        new=(Call("after_alias"),),
    ),
    Line(
        "a task is renamed or moved, without an alias",
        old=(Call("before_rename"),),
        new=(Call("after_rename"),),
        fails=True,
    ),
    Line(
        "`def` becomes `async def`, or the reverse",
        old=(Call("recoloured", waits=False),),
        new=(Call("recoloured", waits=False),),
    ),
)

QUEUE_LINES: Final = ("a task has another `queue`", "a queue is added", "a queue is removed")


class Deployment(NamedTuple):
    """A deployment under way."""

    old: Release
    new: Release
    queues: Queues


@pytest.fixture(scope="module")
def deployment(sqs: LocalSqs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    names = [f"{prefix}{kind}" for prefix in ("", "next-", "added-", "removed-") for kind in KINDS]
    run = uuid.uuid4().hex
    urls: dict[str, str | None] = {
        name: None if "table" in name else sqs.create_queue(f"{run}-{name}", fifo="fifo" in name)
        for name in names
    }
    urls["default"] = sqs.create_queue(run)
    queues = Queues(sqs, urls)
    database = tmp_path_factory.mktemp("database") / "db.sqlite3"

    def release(version: str, tasks: str, moved_to: str, without: str) -> Release:
        moved = "".join(MOVED.format(kind=kind, queue=f"{moved_to}{kind}") for kind in KINDS)
        known = [name for name in names if not name.startswith(without)]
        settings = queues.setting(*known) + f"DATABASES['default']['NAME'] = {str(database)!r}\n"
        directory = tmp_path_factory.mktemp(version)
        return Release(directory, tasks=tasks + moved, settings=settings)

    old = release("old", OLD_TASKS, "", "added-")
    new = release("new", NEW_TASKS, "next-", "removed-")
    new.migrate()
    with running(old, new):
        yield Deployment(old, new, queues)


def enqueue(release: Release, call: Call, queue: str | None = None) -> str:
    options = {"group_key": uuid.uuid4().hex} | ({"queue": queue} if queue else {})
    id: str = release.ask(
        "call", task=f"shop.tasks.{call.task}", kwargs={"a": 1} | call.kwargs, **options
    )
    return id


def status(release: Release, id: str) -> str:
    record = release.ask("record", id=id)
    assert record["status"] != "SUCCESS" or record["result"] == 1
    return str(record["status"])


def play(deployment: Deployment, caller: Release, call: Call, kind: str) -> str:
    """A call of one release meets the other one. Return its id; what waits is due again."""
    other = deployment.new if caller is deployment.old else deployment.old
    id = enqueue(caller, call, kind)
    deployment.queues.deliver(kind, other)
    assert status(caller, id) == ("QUEUED" if call.waits else "SUCCESS")
    if call.waits:
        deployment.queues.end_wait(kind, other)
    return id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("line", LINES, ids=[line.change for line in LINES])
def test_each_call_runs_in_a_release_that_can_run_it(
    deployment: Deployment, line: Line, kind: str
) -> None:
    for caller, calls in ((deployment.old, line.old), (deployment.new, line.new)):
        for call in calls:
            id = play(deployment, caller, call, kind)
            if call.waits:
                deployment.queues.deliver(kind, caller)
                assert status(caller, id) == "SUCCESS"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "line",
    [line for line in LINES if line.fails],
    ids=[line.change for line in LINES if line.fails],
)
def test_what_no_release_is_left_for_fails_after_the_grace(
    deployment: Deployment, line: Line, kind: str
) -> None:
    (call,) = line.old
    id = play(deployment, deployment.old, call, kind)
    deployment.old.ask("end_grace", id=id)

    deployment.queues.deliver(kind, deployment.new)

    record = deployment.new.ask("record", id=id)
    assert (record["status"], record["n_attempts"]) == ("FAILED", 0)
    assert call.task in record["traceback"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_with_another_queue_runs_from_both(deployment: Deployment, kind: str) -> None:
    old, new, queues = deployment
    call = Call(f"moved_{kind}")

    old_id, new_id = enqueue(old, call), enqueue(new, call)
    queues.deliver(kind, new)
    queues.deliver(f"next-{kind}", old)

    assert (status(new, old_id), status(old, new_id)) == ("SUCCESS", "SUCCESS")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["added", "removed"])
def test_a_queue_that_one_release_does_not_know_waits_for_the_other(
    deployment: Deployment, change: str, kind: str
) -> None:
    old, new, queues = deployment
    knows, other = (new, old) if change == "added" else (old, new)
    id = enqueue(knows, Call("recoloured"), f"{change}-{kind}")

    other.ask("relay")
    assert status(other, id) == "QUEUED"
    knows.ask("relay")
    queues.deliver(f"{change}-{kind}", knows)

    assert status(knows, id) == "SUCCESS"


def test_the_page_has_these_lines_and_no_others() -> None:
    table = PAGE.partition("| change |")[2]
    changes = re.findall(r"^\| ((?:a|an|`def`) [^|]*?) \|", table, re.MULTILINE)

    assert changes == [*(line.change for line in LINES), *QUEUE_LINES]
    for line in LINES:
        (row,) = re.findall(rf"^\| {re.escape(line.change)} \|(.*?)\|(.*?)\|", table, re.MULTILINE)
        for cell, calls in zip(row, (line.old, line.new), strict=True):
            assert ("waits" in cell) == any(call.waits for call in calls)
            assert ("runs" in cell) == any(not call.waits for call in calls)
