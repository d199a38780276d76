"""Django's Task and TaskResult, as type checkers see them.

Django 6 has these classes without annotations, and not every project has django-stubs or
django-tasks. So what a project uses of them is annotated here.
"""

from datetime import datetime
from typing import Any, Generic, ParamSpec, Self, TypeVar

from django_tasks.base import Task, TaskResult

P = ParamSpec("P")
R = TypeVar("R")

class TypedResult(TaskResult[R], Generic[R]):
    """A TaskResult of a task that returns R."""

    id: str
    status: str  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]
    args: list[Any]
    kwargs: dict[str, Any]
    backend: str
    enqueued_at: datetime | None
    started_at: datetime | None
    last_attempted_at: datetime | None
    finished_at: datetime | None
    errors: list[Any]
    worker_ids: list[str]

    @property
    def return_value(self) -> R | None: ...
    @property
    def is_finished(self) -> bool: ...
    @property
    def attempts(self) -> int: ...
    def refresh(self) -> None: ...
    async def arefresh(self) -> None: ...

class TypedTask(Task[P, R], Generic[P, R]):
    """A Task with these parameters that returns R."""

    priority: int
    backend: str
    queue_name: str
    run_after: datetime | None

    def using(
        self,
        *,
        priority: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | None = None,
        backend: str | None = None,
    ) -> Self: ...
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> TypedResult[R]: ...
    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> TypedResult[R]: ...
    def call(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def acall(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def get_result(self, result_id: str) -> TypedResult[R]: ...
    async def aget_result(self, result_id: str) -> TypedResult[R]: ...
