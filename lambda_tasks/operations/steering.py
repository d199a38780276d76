"""What operators do to calls: retry, replay, make due, cancel, purge, and enqueue by name.

Each works in chunks, each with a transaction of its own unless the caller has one. What is
interrupted in the middle has done some chunks wholly and the others not at all, and can be called
again.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Unpack
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from .. import conf, registry, runtime
from ..core.lifecycle import UNFINISHED, Status
from ..core.message import UNDO_HEADER, Outgoing, check_headers
from ..core.redaction import REDACTED
from ..core.signature import SIGNATURE_LIFETIME_S
from ..enqueue.prepare import check_priority, check_run_after, prepare
from ..errors import ArgumentsMismatch, InvalidFilter, UnknownTask
from ..invocation import Invocation
from ..models import TaskRecord
from ..ports import Joins, Task
from ..records import steering as rows
from ..records.encryption import decrypt
from ..records.filters import Filters, as_uuid, is_empty, moment
from ..records.mapping import ARGS_KEY, DROPPED
from ..twins import sync_form
from .checking import check_names, check_number, check_time, find_task
from .counting import STUCK_AFTER

logger = logging.getLogger("lambda_tasks")

CHUNK_SIZE: Final = 500
"""Records that one transaction changes."""

FIRST_SHOWN: Final = 10
"""Records that a dry run of a purge names."""

OnProgress = Callable[[int, int], None]
"""A function that is called after each chunk, with the numbers of records so far, and in all."""


@dataclass(slots=True)
class Changes:
    """What was changed, or would be in a dry run."""

    done: list[UUID] = field(default_factory=list)
    """The ids of the invocations that were changed."""
    skipped: dict[UUID, str] = field(default_factory=dict)
    """The reason why each other one was not."""


@dataclass(slots=True)
class Replays(Changes):
    """What was replayed, or would be in a dry run."""

    new: dict[UUID, UUID] = field(default_factory=dict)
    """The id of the new invocation by that of the old one. Nothing in a dry run."""


@dataclass(slots=True)
class Purged:
    """What was deleted, or would be in a dry run."""

    before: datetime
    """The moment before which records had ended."""
    deleted: int = 0
    first: list[UUID] = field(default_factory=list)
    """The first ten of them, in a dry run."""
    kept: int | None = None
    """The records that the filters name and that stay: unfinished, or not old enough. None without
    filters."""


def ignore_progress(done: int, total: int) -> None:
    """Report no progress."""


@sync_form("aretry(...)")
def retry(
    *, dry_run: bool = False, on_progress: OnProgress = ignore_progress, **filters: Unpack[Filters]
) -> Changes:
    """Run FAILED and CANCELLED calls again, as the same invocations.

    Their ids and idempotency keys stay. Attempts and retries count from 0; what they had saved as
    state is there. The oldest call comes first. An invocation of which a later one follows, which
    repeats it, is skipped, and so is one that can't run: its secret arguments were removed, or this
    release lacks its task or its queue.

    Raises InvalidFilter without any filter, and for one that makes no sense.
    """
    ids = _select(filters, rows.RETRYABLE)
    only = "only FAILED and CANCELLED ones are retried"
    changes = Changes(skipped=_unsuitable(filters, ids, rows.RETRYABLE, only))
    look_terms = conf.current().look_terms
    for done, chunk in _chunks(ids):
        changed = rows.reopen(chunk, refuse_retry, look_terms, dry_run=dry_run)
        changes.done += changed.done
        changes.skipped |= changed.skipped
        if changed.done and not dry_run:
            _send_after_commit(changed.done)
        on_progress(done, len(ids))
    _log(changes, "retried", dry_run=dry_run)
    return changes


async def aretry(
    *, dry_run: bool = False, on_progress: OnProgress = ignore_progress, **filters: Unpack[Filters]
) -> Changes:
    """See retry()."""
    return await sync_to_async(retry)(dry_run=dry_run, on_progress=on_progress, **filters)


@sync_form("areplay(...)")
def replay(
    *,
    change: Mapping[str, Any] | None = None,
    again: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[Filters],
) -> Replays:
    """Enqueue finished calls anew, as new invocations; the old records stay as they are.

    `change` has arguments, as JSON values, that replace those of the call; they are checked against
    the task. A replay has the `root_id` of its call, and so its idempotency key. A call that was
    retried or replayed already is skipped, except with `again`: replay the last of its records. A
    call that is unique for a time (`unique_for`) runs again within it: its key passes to the
    replay. It is skipped while another call holds that key. The replay of a failed step of a
    workflow that has not succeeded and was not cancelled is that step from then on.

    Raises InvalidFilter without any filter, and for one that makes no sense.
    """
    ids = _select(filters, rows.FINISHED)
    only = "only finished ones are replayed"
    changes = Replays(skipped=_unsuitable(filters, ids, rows.FINISHED, only))
    here = runtime.current()
    for done, chunk in _chunks(ids):
        with transaction.atomic(using=here.outbox.alias):
            records = rows.find_finished(chunk, lock=not dry_run)
            superseded = set() if again else rows.find_superseded(chunk)
            steps = {each.id: each for each in rows.find_failed_steps(records)}
            outgoing = list(_replays_of(records, superseded, steps, change or {}, changes))
            if outgoing and not dry_run:
                outgoing = _placed(outgoing, steps, changes)
                unique = [each.message for each in outgoing if each.message.unique]
                rows.free_keys({(each.unique.key, each.root_id) for each in unique if each.unique})
                joins = here.enqueuer.enqueue(outgoing, using=here.outbox.alias)
                _skip_joined(joins, changes)
        on_progress(done, len(ids))
    if dry_run:
        changes.new.clear()
    _log(changes, "replayed", dry_run=dry_run)
    return changes


async def areplay(
    *,
    change: Mapping[str, Any] | None = None,
    again: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[Filters],
) -> Replays:
    """See replay()."""
    return await sync_to_async(replay)(
        change=change, again=again, dry_run=dry_run, on_progress=on_progress, **filters
    )


@sync_form("arequeue(...)")
def requeue(
    *,
    older_than: timedelta = STUCK_AFTER,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[Filters],
) -> Changes:
    """Make what is stuck due at once, and send its messages again. See stuck().

    That is safe: an invocation is claimed once, however many messages it has. Workers and relay do
    it by themselves, so this is for a system in which they could not. Filters may narrow it down.

    Raises InvalidFilter for a filter or a time that makes no sense.
    """
    check_time("older_than", older_than)
    check_names(filters)
    ids = rows.select_stuck(filters, older_than)
    changes = Changes()
    for done, chunk in _chunks(ids):
        found = list(chunk) if dry_run else rows.make_due(chunk, older_than=older_than)
        changes.done += found
        if found and not dry_run:
            _send_after_commit(found)
        on_progress(done, len(ids))
    _log(changes, "made due", dry_run=dry_run)
    return changes


async def arequeue(
    *,
    older_than: timedelta = STUCK_AFTER,
    dry_run: bool = False,
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[Filters],
) -> Changes:
    """See requeue()."""
    return await sync_to_async(requeue)(
        older_than=older_than, dry_run=dry_run, on_progress=on_progress, **filters
    )


@sync_form("acancel(...)")
def cancel(
    *, dry_run: bool = False, on_progress: OnProgress = ignore_progress, **filters: Unpack[Filters]
) -> Changes:
    """Cancel unfinished calls: what is QUEUED never runs, what is RUNNING can't commit any more.

    Raises InvalidFilter without any filter, and for one that makes no sense.
    """
    ids = _select(filters, UNFINISHED)
    only = "only unfinished ones are cancelled"
    changes = Changes(skipped=_unsuitable(filters, ids, UNFINISHED, only))
    for done, chunk in _chunks(ids):
        if not dry_run:
            rows.cancel_many(chunk)
        after = dict.fromkeys(chunk, "") if dry_run else rows.statuses_of(chunk)
        for id in chunk:
            if dry_run or after.get(id) == Status.CANCELLED:
                changes.done.append(id)
            else:
                changes.skipped[id] = "it has ended meanwhile"
        on_progress(done, len(ids))
    _log(changes, "cancelled", dry_run=dry_run)
    return changes


async def acancel(
    *, dry_run: bool = False, on_progress: OnProgress = ignore_progress, **filters: Unpack[Filters]
) -> Changes:
    """See cancel()."""
    return await sync_to_async(cancel)(dry_run=dry_run, on_progress=on_progress, **filters)


@sync_form("apurge(...)")
def purge(
    *,
    older_than: timedelta | None = None,
    all_time: bool = False,
    limit: int | None = None,
    chunk_size: int = 1000,
    dry_run: bool = False,
    by: str = "",
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[Filters],
) -> Purged:
    """Delete finished records for good, the earliest end first. Unfinished ones always stay.

    A window is required: `older_than` counts back from now to the end of a run, or `all_time` says
    that there is none. At most `limit` records are deleted. With `arguments`, they are those of one
    customer, say. The log has a line with what was asked for and by whom, with the names of
    arguments and without their values. With LAMBDA_TASKS_SIGNING_KEYS, records are kept for at
    least 14 days: a signed message that is sent again must find the record of its run.

    Raises InvalidFilter without a window, and for a filter that makes no sense.
    """
    purged = Purged(_window_end(older_than, all_time=all_time))
    check_number("chunk_size", chunk_size, least=1)
    most = math.inf if limit is None else limit
    check_number("limit", most, least=1)
    check_names(filters)
    if not is_empty(filters):
        purged.kept = rows.count_others(filters, before=purged.before)
    total = 0
    if dry_run or on_progress is not ignore_progress:
        total = int(min(rows.count_finished(filters, before=purged.before), most))
    if dry_run:
        purged.deleted = total
        size = int(min(FIRST_SHOWN, most))
        chunk = rows.find_deletable(filters, before=purged.before, since=None, limit=size)
        purged.first = list(chunk.ids)
        return purged
    since: datetime | None = None
    while purged.deleted < most:
        size = int(min(chunk_size, most - purged.deleted))
        chunk = rows.find_deletable(filters, before=purged.before, since=since, limit=size)
        deleted = rows.delete(chunk.ids) if chunk.ids else 0
        if not deleted:
            break
        purged.deleted += deleted
        since = chunk.last_end
        on_progress(purged.deleted, total)
    logger.warning(
        "Records deleted%s: %d, which had ended before %s. Filters: %s.",
        by and f" by {by}", purged.deleted, purged.before.isoformat(timespec="seconds"),
        _describe(filters),
    )  # fmt: skip
    return purged


async def apurge(
    *,
    older_than: timedelta | None = None,
    all_time: bool = False,
    limit: int | None = None,
    chunk_size: int = 1000,
    dry_run: bool = False,
    by: str = "",
    on_progress: OnProgress = ignore_progress,
    **filters: Unpack[Filters],
) -> Purged:
    """See purge()."""
    return await sync_to_async(purge)(
        older_than=older_than,
        all_time=all_time,
        limit=limit,
        chunk_size=chunk_size,
        dry_run=dry_run,
        by=by,
        on_progress=on_progress,
        **filters,
    )


@sync_form("aenqueue(...)")
def enqueue(
    task_name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    queue: str | None = None,
    run_after: datetime | timedelta | None = None,
    priority: int = 0,
    group_key: str | None = None,
    headers: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Invocation[object]:
    """Enqueue a call of a task by its name, with arguments that are JSON values.

    It joins the transaction on the database of the records. Raises UnknownTask, with the closest
    name, ArgumentsMismatch where the arguments don't fit the task, and what a call raises.
    """
    task = find_task(task_name)
    kwargs = dict(arguments or {})
    task.check_json((), kwargs)
    outgoing = prepare(
        task.name,
        kwargs,
        queue=queue or task.options.queue,
        task_queue=task.options.queue,
        durable=not task.is_direct(task.backend),
        backend=task.backend,
        run_after=None if run_after is None else check_run_after(run_after),
        priority=check_priority(priority),
        group_key=group_key,
        headers=check_headers(dict(headers or {}), what=f"the headers of {task.name}"),
        secret=task.secret_names,
        keeps_arguments=task.options.keep_arguments,
        expires=task.options.expires,
        unique=task.unique_call((), kwargs),
        is_workflow=task.options.workflow,
    )
    id = outgoing.message.invocation_id
    joins: Joins = {}
    if not dry_run:
        here = runtime.current()
        joins = here.enqueuer.enqueue([outgoing], using=here.outbox.alias)
    if id in joins:
        return Invocation(joins[id].invocation_id, task.name, created=False)
    return Invocation(id, task.name)


async def aenqueue(
    task_name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    queue: str | None = None,
    run_after: datetime | timedelta | None = None,
    priority: int = 0,
    group_key: str | None = None,
    headers: Mapping[str, Any] | None = None,
    dry_run: bool = False,
) -> Invocation[object]:
    """See enqueue()."""
    return await sync_to_async(enqueue)(
        task_name,
        arguments,
        queue=queue,
        run_after=run_after,
        priority=priority,
        group_key=group_key,
        headers=headers,
        dry_run=dry_run,
    )


def send_stored(ids: Iterable[UUID]) -> None:
    """Send the messages of QUEUED records. What no queue accepts is left to the relay."""
    messages = rows.stored_messages(list(ids), conf.current().look_terms)
    if messages:
        runtime.current().enqueuer.send_now(messages)


def _send_after_commit(ids: Sequence[UUID]) -> None:
    transaction.on_commit(partial(send_stored, ids), using=runtime.current().outbox.alias)


def _select(filters: Filters, statuses: Sequence[Status]) -> list[UUID]:
    if is_empty(filters):
        raise InvalidFilter(
            "No filter says which records are meant. Name them: by ids, status, task, queue, "
            "arguments, since, until or error."
        )
    check_names(filters)
    return rows.select(filters, statuses)


def _unsuitable(
    filters: Filters, found: Sequence[UUID], suitable: Collection[Status], only: str
) -> dict[UUID, str]:
    """Return the ids that the caller named and that were not found, each with the reason."""
    named = {as_uuid(id) for id in filters.get("ids") or ()}
    missing = named.difference(found)
    statuses = rows.statuses_of(missing) if missing else {}

    def reason(id: UUID) -> str:
        if id not in statuses:
            return "there is no record of it"
        status = statuses[id]
        return "another filter excludes it" if status in suitable else f"it is {status}; {only}"

    return {id: reason(id) for id in missing}


def _chunks(ids: Sequence[UUID]) -> Iterable[tuple[int, Sequence[UUID]]]:
    """Yield chunks, each with the number of ids up to its end."""
    for start in range(0, len(ids), CHUNK_SIZE):
        chunk = ids[start : start + CHUNK_SIZE]
        yield start + len(chunk), chunk


def refuse_retry(record: TaskRecord) -> str | None:
    """Return why a record can't be retried, or None if it can."""
    try:
        _arguments_of(record, _task_of(record))
    except (UnknownTask, ImproperlyConfigured, ValueError) as error:
        return str(error)
    return None


def _placed(
    replays: Sequence[Outgoing], steps: Mapping[UUID, TaskRecord], made: Replays
) -> list[Outgoing]:
    """Return replays, those of failed steps with the places of these in their workflows."""
    replayed = [step for id, step in steps.items() if id in made.new]
    if not replayed:
        return list(replays)
    places = {made.new[id]: place for id, place in rows.hand_places_on(replayed).items()}
    return [
        replace(each, message=replace(each.message, place=replace(place, inputs={})))
        if (place := places.get(each.message.invocation_id)) is not None
        else each
        for each in replays
    ]


def _replays_of(
    records: Sequence[TaskRecord],
    superseded: set[UUID],
    steps: Collection[UUID],
    change: Mapping[str, Any],
    to: Replays,
) -> Iterable[Outgoing]:
    """Yield the messages of replays; note what is done, and why others are not.

    `steps` are the failed steps among the records.
    """
    for record in records:
        try:
            if record.id in superseded:
                raise ValueError(rows.SUPERSEDED)
            if record.id in steps and record.start_time is None:
                raise ValueError("it is a step that has never begun: retry it, or its workflow")
            replay = _replay_of(record, change)
        except (UnknownTask, ArgumentsMismatch, ImproperlyConfigured, ValueError) as error:
            to.skipped[record.id] = str(error)
        else:
            to.done.append(record.id)
            to.new[record.id] = replay.message.invocation_id
            yield replay


def _skip_joined(joins: Joins, to: Replays) -> None:
    """Note the replays that were not made, because other invocations hold their unique keys."""
    until = rows.kept_until(joins[new].invocation_id for new in to.new.values() if new in joins)
    for id in [id for id, new in to.new.items() if new in joins]:
        holder = joins[to.new.pop(id)].invocation_id
        to.done.remove(id)
        to.skipped[id] = f"{holder} holds its unique key, and has not ended"
        if holder in until:
            to.skipped[id] = (
                f"{holder} has succeeded since, and holds its unique key until "
                f"{until[holder].isoformat(timespec='seconds')} (unique_for): replay that one"
            )


def _replay_of(record: TaskRecord, change: Mapping[str, Any]) -> Outgoing:
    """Return the message of a new invocation with a record's arguments, some of them changed.

    Raises ValueError, UnknownTask, ArgumentsMismatch or ImproperlyConfigured where it can't be
    replayed.
    """
    task = _task_of(record)
    if UNDO_HEADER in (record.headers or {}):
        raise ValueError("it runs the compensations of a durable function: retry it")
    if results := (record.links or {}).get("inputs", {}).keys() - change.keys():
        names = ", ".join(sorted(results))
        raise ValueError(
            f"it takes results of other steps ({names}), which only its workflow passes on: retry "
            "it, or pass them as changes"
        )
    args, kwargs = _arguments_of(record, task, without=change.keys())
    kwargs |= change
    task.check_json(args, kwargs)
    outgoing = prepare(
        task.name,
        kwargs,
        queue=record.queue,
        durable=task.options.durable,
        args=args,
        backend=record.backend,
        group_key=record.group_key,
        root_id=record.root_id or record.id,
        headers=record.headers,
        # A TaskResult of django.tasks keeps its id, and follows the chain of retries to the replay.
        retry_of=record.id if record.backend else None,
        priority=record.priority,
        secret=task.secret_names,
        keeps_arguments=task.options.keep_arguments,
        expires=task.options.expires,
        unique=task.unique_call(args, kwargs),
        is_workflow=task.options.workflow,
    )
    # It must neither change another call, nor stop the replay of others.
    return replace(outgoing, on_conflict="return")


def _task_of(record: TaskRecord) -> Task:
    conf.current().queue(record.queue)
    return registry.resolve(record.task_name, record.backend)


def _arguments_of(
    record: TaskRecord, task: Task, *, without: Iterable[str] = ()
) -> tuple[Sequence[Any], dict[str, Any]]:
    """Return the arguments of a call, decrypted.

    Raises ValueError where they were removed after its end, except for those in `without`.
    """
    if record.kwargs == DROPPED:
        raise ValueError("its arguments were removed after its end: the task does not keep them")
    secrets = decrypt(record.secrets, id=record.id)
    hidden = {name for name, value in record.kwargs.items() if value == REDACTED}
    hidden |= task.secret_names & record.kwargs.keys()
    if REDACTED in (record.args or ()):
        hidden.add(ARGS_KEY)
    if missing := hidden - secrets.keys() - set(without):
        names = ", ".join(sorted(missing))
        raise ValueError(f"its secret arguments ({names}) were removed after its end")
    args = secrets.pop(ARGS_KEY, record.args)
    return args or (), record.kwargs | secrets


def _window_end(older_than: timedelta | None, *, all_time: bool) -> datetime:
    """Return the moment before which records are deleted."""
    if (older_than is None) != all_time:
        raise InvalidFilter(
            "A window is required, so that nothing is deleted by mistake: either older_than, such "
            "as timedelta(days=30), or all_time=True."
        )
    end = datetime.now(UTC) if older_than is None else moment("older_than", older_than)
    if conf.current().signing_keys:
        end = min(end, datetime.now(UTC) - timedelta(seconds=SIGNATURE_LIFETIME_S))
    return end


def _describe(filters: Filters) -> str:
    """Return filters for the log, without the values of arguments."""
    shown: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    for name in shown.keys() & {"arguments", "headers"}:
        shown[name] = sorted(shown[name])
    return ", ".join(f"{name}={value}" for name, value in shown.items()) or "none"


def _log(changes: Changes, verb: str, *, dry_run: bool) -> None:
    if not dry_run and (changes.done or changes.skipped):
        logger.info("Calls %s: %d; skipped: %d.", verb, len(changes.done), len(changes.skipped))
