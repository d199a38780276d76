"""Tasks of workflows. Each writes what it has done as an Effect."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

from django.db import connections, transaction
from pydantic import SecretStr

from lambda_tasks import Continue, Retry, TaskContext, lambda_task
from lambda_tasks.models import Workflow
from lambda_tasks.workflows import Results, WorkflowRun, aadd_steps, add_steps, group
from tests.app.models import Effect

T = TypeVar("T")


class Broken(Exception):
    pass


@lambda_task
def charge(*, order_id: int, cents: int) -> str:
    Effect.objects.create(name=f"charge {order_id}")
    return f"receipt {order_id} of {cents}"


@lambda_task
async def send_receipt(*, order_id: int, receipt: str) -> int:
    await Effect.objects.acreate(name=f"mail {order_id} {receipt}")
    return len(receipt)


@lambda_task
def resize(*, image_id: int, fails: bool = False) -> int:
    if fails and not Effect.objects.filter(name="repaired").exists():
        raise Broken(f"image {image_id}")
    Effect.objects.create(name=f"resize {image_id}")
    return image_id * 10


@lambda_task
async def measure(*, image_id: int) -> int:
    """Touches no table, so that its end is written together with others."""
    return image_id * 10


@lambda_task
def summarize(*, sizes: Results[int], title: str = "all") -> dict[str, Any]:
    Effect.objects.create(name=f"summary {title}")
    return {"sizes": list(sizes), "total": sizes.total, "failed": sizes.failed}


@lambda_task
def note(*, text: str) -> str:
    Effect.objects.create(name=text)
    return text


@lambda_task(takes_context=True)
def second_time(context: TaskContext, *, text: str) -> str:
    if context.n_retries == 0:
        raise Retry(delay=0)
    Effect.objects.create(name=f"second {text}")
    return text


@lambda_task(takes_context=True)
def two_runs(context: TaskContext, *, text: str) -> str:
    if context.state is None:
        raise Continue("half")
    Effect.objects.create(name=f"whole {text}")
    return text


@lambda_task
def thank() -> None:
    Effect.objects.create(name="thank")


@lambda_task(on_success=thank)
def sell(*, fails: bool = False) -> None:
    if fails:
        raise Broken
    Effect.objects.create(name="sell")


@lambda_task(on_success=thank)
async def count(*, number: int) -> int:
    """Touches no table."""
    return number


@lambda_task
def split(*, n: int, fails: bool = False) -> int:
    Effect.objects.create(name="split")
    add_steps(group(resize.step(image_id=number, fails=fails) for number in range(n)))
    return n


@lambda_task
async def asplit(*, n: int) -> int:
    await aadd_steps(*(note.step(text=f"added {number}") for number in range(n)))
    return n


@lambda_task
def split_twice() -> None:
    """Adds steps in a savepoint that is rolled back, and others that stay."""
    for text in ("lost", "kept", "lost"):
        with suppress(Broken), transaction.atomic():
            add_steps(note.step(text=text))
            if text == "lost":
                raise Broken


@lambda_task
def split_and_measure() -> str:
    """Adds steps, and lets others lock the row of its workflow before it ends."""
    add_steps(note.step(text="added"))
    return on_a_thread(_lock_workflow)


@lambda_task(takes_context=True)
def split_cancelled(context: TaskContext, *, is_late: bool) -> None:
    """Adds steps before or after its workflow is cancelled."""
    for acts in (True, False) if is_late else (False, True):
        if acts:
            on_a_thread(WorkflowRun(context.workflow_id).cancel)  # type: ignore[arg-type]
        else:
            add_steps(note.step(text="added"))


@lambda_task
def split_elsewhere() -> None:
    """Adds steps in a transaction of another thread."""

    def split() -> None:
        with transaction.atomic():
            add_steps(note.step(text="elsewhere"))

    on_a_thread(copy_context().run, split)


@lambda_task(takes_context=True)
def split_and_go_on(context: TaskContext) -> None:
    if context.state is None:
        add_steps(note.step(text="added"))
        raise Continue("half")
    Effect.objects.create(name="gone on")


@lambda_task(atomic=False, takes_context=True)
def own_workflow(context: TaskContext) -> str:
    return f"{context.workflow_id} {context.step}"


@lambda_task
def pay(*, token: SecretStr) -> int:
    Effect.objects.create(name="paid")
    return len(token.get_secret_value())


def on_a_thread(call: Callable[..., T], *args: Any) -> T:
    """Call a function on a thread of its own, with its own connection."""

    def called() -> T:
        try:
            return call(*args)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(called).result()


def _lock_workflow() -> str:
    with transaction.atomic():
        return Workflow.objects.select_for_update(nowait=True).get().status


@lambda_task(atomic=False)
def split_alone() -> None:
    """Adds steps in a transaction of its own, which is not that of its end."""
    with transaction.atomic():
        add_steps(note.step(text="alone"))
