"""Wrong uses of workflows: each line is an error, of the kind that it names."""

from lambda_tasks.workflows import group, workflow
from shop import tasks


def define() -> None:
    named = tasks.name_of.step(id=1)
    numbers = group(tasks.add.step(a=each) for each in range(3))
    names = group([named])
    tasks.add.step()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add.step(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.step(a=1, c=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add.step(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tasks.add.step(a=named.result)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.name_of.step(id=named.result)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    tasks.add.using(queue="other").step(a="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.total.step(sizes=names.results)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.total.step(sizes=[1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tasks.add.step(a=numbers.results)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    named.after(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    group([1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workflow(named)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
