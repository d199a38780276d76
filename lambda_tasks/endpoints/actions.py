"""What each endpoint does for a caller who was admitted.

A caller whose authenticator names tasks or queues sees and changes nothing of others.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from django.db import DatabaseError, InterfaceError
from django.http import HttpRequest, HttpResponse, JsonResponse

from .. import conf, operations, runtime
from ..access import Authenticator, Scope, Staff
from ..errors import NotMigrated
from ..interrupts import LIBRARY_STATEMENT_LIMIT_S, interrupt_after
from ..models import TaskRecord
from ..operations.running import work
from ..pools import borrowed_connections
from ..ports import RoundResult
from ..records import queries
from ..threads import make_executor
from . import prometheus
from .parameters import (
    HealthParameters,
    NoParameters,
    Parameters,
    PurgeParameters,
    RunParameters,
    StatusParameters,
)
from .refusals import BadRequest, Forbidden, NotFound, Unavailable

logger = logging.getLogger("lambda_tasks")

P_co = TypeVar("P_co", bound=Parameters, covariant=True)
T = TypeVar("T")

SEE_PAYLOAD: Final = "lambda_tasks.view_payload_taskrecord"
"""The permission to see arguments and results in the admin."""

LIMIT_S: Final = 25.0
"""Seconds for one request, less than the 29 that API Gateway waits and the 30 of gunicorn."""

BEGIN_FRACTION: Final = 0.6
"""The fraction of the time of run/ in which tasks begin. In the rest they end."""

CLOSE_LIMIT_S: Final = 20.0
"""Seconds for the executor to close, and for the library's own statements, after that time."""


@dataclass(frozen=True, slots=True)
class Call(Generic[P_co]):
    """What an admitted caller asks for."""

    request: HttpRequest
    parameters: P_co
    admitted_by: Authenticator
    id: str = ""
    """The id in the URL."""

    @property
    def scope(self) -> Scope:
        """The part of the tasks that the caller may see and change."""
        return self.admitted_by.scope

    @property
    def may_see_results(self) -> bool:
        """Whether the setting shows results, and to staff the permission of the admin, too."""
        by_session = isinstance(self.admitted_by, Staff)
        user: Any = self.request.user if by_session else None
        return self.admitted_by.shows_results and (not by_session or user.has_perm(SEE_PAYLOAD))


def health(call: Call[HealthParameters]) -> HttpResponse:
    """Answer 200 if the system is well, 503 with the reasons if not."""
    limits: dict[str, Any] = {}
    if call.parameters.max_age is not None:
        limits["max_age"] = timedelta(seconds=call.parameters.max_age)
    queues: Sequence[str | None] = _queues(call.parameters.queue, call.scope) or (None,)
    try:
        with borrowed_connections(), interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
            found = [operations.health(queue=queue, **limits) for queue in queues]
    except (DatabaseError, InterfaceError, NotMigrated) as error:
        logger.error("health/ has no answer of the database: %s", error)
        return _verdict(
            [operations.Problem("critical", "database", "The database gives no answer.")]
        )
    problems = {problem: None for each in found for problem in each.problems}
    return _verdict(list(problems))


def _verdict(problems: list[operations.Problem]) -> JsonResponse:
    levels = {problem.level for problem in problems}
    status = next((level for level in ("critical", "warning") if level in levels), "ok")
    return JsonResponse(
        {"status": status, "problems": [asdict(problem) for problem in problems]},
        status=503 if status == "critical" else 200,
    )


def status(call: Call[StatusParameters]) -> HttpResponse:
    """Answer the counts as JSON, or as text if the caller prefers it, as Prometheus does."""
    queues = _queues(call.parameters.queue, call.scope)
    with borrowed_connections(), interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
        found = operations.stats()
        paused = {name for name, each in operations.queue_states().items() if each.is_paused}
    by_queue = {
        name: counts for name, counts in found.queues.items() if queues is None or name in queues
    }
    # Those of tasks are counted in all queues.
    by_task = found.tasks if queues is None else {}
    if call.request.get_preferred_type(["application/json", prometheus.ACCEPTED]) == (
        prometheus.ACCEPTED
    ):
        text = prometheus.exposition(found, by_queue, by_task, paused)
        return HttpResponse(text, content_type=prometheus.CONTENT_TYPE)
    return JsonResponse(
        {
            "now": found.now,
            "ended_since": found.ended_since,
            "is_complete": found.is_complete,
            "last_tick_s": found.last_tick_s,
            "queues": {
                name: asdict(each) | {"is_paused": name in paused}
                for name, each in by_queue.items()
            },
            "tasks": {name: asdict(each) for name, each in by_task.items()},
        }
    )


def record(call: Call[NoParameters]) -> HttpResponse:
    """Answer how a task stands: the last invocation that follows from the one of the id."""
    unknown = NotFound("No task that you may see has this id.")
    try:
        id = UUID(call.id)
    except ValueError:
        raise unknown from None
    with borrowed_connections(), interrupt_after(LIBRARY_STATEMENT_LIMIT_S):
        found = queries.find_last(id)
        if found is None or not call.scope.covers(task=found.task_name, queue=found.queue):
            raise unknown
        described = _described(found, id)
        if call.may_see_results:
            described |= {"progress": found.progress, "result": _result_of(found)}
    return JsonResponse(described)


def _described(found: TaskRecord, id: UUID) -> dict[str, Any]:
    """Return what nobody needs to hide: no arguments, no result, no text of an error."""
    return {
        "id": id,
        "last_id": found.id,
        "task": found.task_name,
        "queue": found.queue,
        "status": found.status,
        "error": found.exception_class,
        "n_retries": found.n_retries,
        "n_attempts": found.n_attempts,
        "enqueued_at": found.enqueued_at,
        "run_after": found.run_after,
        "start_time": found.start_time,
        "end_time": found.end_time,
        "duration_s": None if found.duration is None else found.duration.total_seconds(),
    }


def _result_of(found: TaskRecord) -> Any:
    """Return the result. Raises Unavailable where it can't be decrypted."""
    try:
        return found.result
    except ValueError as error:
        logger.error("The result of %s can't be read: %s", found.id, error)
        raise Unavailable("The result can't be read. The log has the reason.") from None


async def tick(call: Call[NoParameters]) -> HttpResponse:
    """Tick, as the function's tick event does."""
    here = runtime.current()
    done = await _within(LIMIT_S, _run_round(here))
    return JsonResponse({"scheduled": done.scheduled, "relayed": done.relayed})


async def _run_round(here: runtime.Runtime) -> RoundResult:
    await here.relay_shifts.take(always=True)
    return await here.round.run()


async def _within(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine. Raises Unavailable if it takes longer."""
    running = asyncio.ensure_future(work)
    try:
        # Not wait_for(), which would wait for the cancelled work to end: it may hang.
        done, _ = await asyncio.wait([running], timeout=limit_s)
    finally:
        running.cancel()
    if done:
        return running.result()
    raise Unavailable(f"This was not done within {limit_s:g} s. The next request goes on with it.")


def run(call: Call[RunParameters]) -> HttpResponse:
    """Run tasks that are due, by the real executor, on a thread and an event loop of their own.

    A task that blocks the loop then holds up no request of an async server.
    """
    asked_for = call.parameters
    queues = _queues(asked_for.queue, call.scope)
    for queue in queues or ():
        if not conf.current().queue(queue).has_workers:
            raise BadRequest(f"No worker can run the tasks of the queue {queue!r}.")
    begins_within_s = asked_for.seconds * BEGIN_FRACTION
    executor = make_executor(1, "lambda_tasks-endpoint")
    running = executor.submit(
        _work, asked_for.max_tasks, queues, begins_within_s, asked_for.seconds - begins_within_s
    )
    executor.shutdown(wait=False)
    try:
        counted = running.result(asked_for.seconds + CLOSE_LIMIT_S)
    except TimeoutError:
        raise Unavailable(
            "A task holds on although its time is over. What was not finished runs later."
        ) from None
    return JsonResponse(asdict(counted))


def _work(
    max_tasks: int, queues: list[str] | None, begins_within_s: float, drain_s: float
) -> operations.RunCount:
    within = timedelta(seconds=begins_within_s)
    return asyncio.run(work(max_tasks=max_tasks, queue=queues, within=within, drain_s=drain_s))


def purge(call: Call[PurgeParameters]) -> HttpResponse:
    """Delete records of tasks that have ended."""
    asked_for = call.parameters
    older_than = asked_for.older_than
    if (older_than is None) != asked_for.all_time:
        raise BadRequest('Send either "older_than", in seconds, or "all_time": true.')
    with borrowed_connections(), interrupt_after(LIMIT_S):
        purged = operations.purge(
            older_than=None if older_than is None else timedelta(seconds=older_than),
            all_time=asked_for.all_time,
            limit=asked_for.batch,
            dry_run=asked_for.dry_run,
            by=_name_of_caller(call),
            status=asked_for.status,
            task=_tasks(asked_for.task, call.scope),
            queue=_queues(asked_for.queue, call.scope),
        )
    return JsonResponse(
        {"deleted": purged.deleted, "before": purged.before, "dry_run": asked_for.dry_run}
    )


def _name_of_caller(call: Call[Any]) -> str:
    """Return the name of who asks, for the log."""
    if isinstance(call.admitted_by, Staff):
        return str(call.request.user)
    return f"a caller of purge/ with {type(call.admitted_by).__name__}"


def _queues(asked_for: list[str] | None, scope: Scope) -> list[str] | None:
    """Return the queues that a request is about; None for all.

    Raises Forbidden for one that the caller may not see, and BadRequest for one that is not there.
    """
    if asked_for is None:
        return sorted(scope.queues) or None
    for queue in asked_for:
        if scope.queues and queue not in scope.queues:
            raise Forbidden(f"You may not ask for the queue {queue!r}.")
        if queue not in conf.current().queues:
            raise BadRequest(f"There is no queue {queue!r}.")
    return sorted(set(asked_for))  # each is asked for once


def _tasks(asked_for: list[str] | None, scope: Scope) -> list[str] | None:
    """Return the tasks that a request is about; None for all. Raises Forbidden; see _queues()."""
    if asked_for is None:
        return sorted(scope.tasks) or None
    if scope.tasks and (others := set(asked_for) - scope.tasks):
        raise Forbidden(f"You may not ask for the task {min(others)!r}.")
    return asked_for
