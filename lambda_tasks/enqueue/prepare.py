"""The last step of a call before it is sent: a checked call becomes an encoded message.

Every error that can be known at the call is raised here, so that the caller's transaction can roll
back.
"""

import json
import reprlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.utils.crypto import salted_hmac

from .. import conf
from ..core.lifecycle import LookTerms
from ..core.message import (
    CALL_HEADER,
    GROUP_KEY_PATTERN,
    KEEP_ARGUMENTS_HEADER,
    MAX_GROUP_KEY,
    PRIORITIES,
    YEARS,
    Message,
    Outgoing,
    check_arguments,
)
from ..core.retries import MAX_DELAY_S
from ..core.unique import UniqueCall, UniqueKey, check_duration
from ..records import encryption

DROPS_ARGUMENTS: Final[Mapping[str, Any]] = {KEEP_ARGUMENTS_HEADER: False}
"""The header of a call whose record does not keep its arguments."""


def prepare(
    task_name: str,
    kwargs: dict[str, Any],
    *,
    queue: str,
    durable: bool | None,
    task_queue: str | None = None,
    args: Sequence[Any] = (),
    backend: str | None = None,
    invocation_id: UUID | None = None,
    n_retries: int = 0,
    delay_s: int = 0,
    run_after: datetime | None = None,
    group_key: str | None = None,
    priority: int = 0,
    root_id: UUID | None = None,
    retry_of: UUID | None = None,
    headers: Mapping[str, Any] | None = None,
    secret: frozenset[str] = frozenset(),
    keeps_arguments: bool = True,
    enqueued_at: datetime | None = None,
    expires: float | timedelta | datetime | None = None,
    unique: UniqueCall | None = None,
    is_step: bool = False,
    is_workflow: bool = False,
) -> Outgoing:
    """Return the message of a call, encoded for a queue.

    `args` and `kwargs` are JSON values. With `durable` None the setting decides. `task_queue` is
    the queue that the task declares; a message for it need not name it. `keeps_arguments` says
    whether the record has them after the run. `expires` is a moment, or a time from when the call
    is due. A step of a workflow (`is_step`) is always stored, and so is a durable function
    (`is_workflow`).

    Raises ImproperlyConfigured for an unknown queue and for secrets that can't be stored;
    ValueError for a delay, priority or group key that the queue does not accept, and for text that
    JSON or the database can't hold; MessageTooLarge for a direct message over its queue's limit
    and for a durable one over LAMBDA_TASKS_MAX_ARGUMENT_BYTES.
    """
    settings = conf.current()
    destination = settings.queue(queue)
    check_delay(delay_s)
    if group_key is not None:
        _check_group_key(group_key)
    if priority and not destination.is_table:
        raise ValueError(
            f"priority is {priority}, but the queue {queue!r} has no priorities: SQS and AWS Batch "
            "do not support them. Use a separate queue, or a database queue."
        )
    look = settings.look_terms(queue)
    keeps_row = unique is not None or is_step or is_workflow
    id = invocation_id or uuid.uuid4()
    added = {} if keeps_arguments else DROPS_ARGUMENTS
    if is_workflow:
        added = {**added, CALL_HEADER: str(id)}
    if keeps_row and settings.eager:
        delay_s, run_after = 0, None  # Its record must be due when it runs, at once.
    wait_s = delay_s or (0 if run_after is None else _seconds_until(run_after))
    message = Message(
        task_name=task_name,
        kwargs=kwargs,
        invocation_id=id,
        args=tuple(args),
        backend=backend,
        n_retries=n_retries,
        queue=None if queue == task_queue else queue,
        durable=not settings.noop_execution
        if keeps_row
        else _is_durable(look, settings, durable, is_delayed=wait_s > 0),
        run_after=run_after,
        group_key=group_key,
        priority=priority,
        root_id=root_id,
        retry_of=retry_of,
        headers={**(headers or {}), **added},
        expires_at=None if expires is None else _expires_at(expires, _due(run_after, delay_s)),
        unique=None
        if unique is None or settings.noop_execution
        else _unique_key(unique, task_name, backend, _due(run_after, delay_s)),
        secret=secret,
    )
    if message.durable:
        if message.secret_kwargs:
            encryption.check_available(task_name)
        arguments = message.encode_arguments()
        limit_bytes = settings.max_argument_bytes
        check_arguments(arguments, task_name=task_name, limit_bytes=limit_bytes)
    body = message.encode()
    destination.check_message(message, body, is_signed=bool(settings.signing_keys))
    return Outgoing(
        message,
        body,
        queue,
        round(min(wait_s, MAX_DELAY_S)),
        enqueued_at,
        look=look,
        waits=message.durable and look.waits(wait_s),
        on_conflict="return" if unique is None else unique.terms.on_conflict,
    )


def _is_durable(
    look: LookTerms, settings: conf.Settings, declared: bool | None, *, is_delayed: bool
) -> bool:
    """Return whether a message for a queue with these terms is stored by the caller."""
    if settings.noop_execution or settings.eager:
        return False
    if not look.is_sent:
        return True  # The table is the queue.
    if is_delayed and not look.can_delay:
        return True  # A FIFO queue can't delay one message, so it waits in its row.
    return settings.durable if declared is None else declared


def _unique_key(
    unique: UniqueCall, task_name: str, backend: str | None, due: datetime
) -> UniqueKey:
    """Return the key of a unique call.

    It is keyed with Django's SECRET_KEY, as the row may have the arguments encrypted.
    """
    text = json.dumps([task_name, backend, unique.text])
    digest = salted_hmac("lambda_tasks.unique", text, algorithm="sha256").digest()
    # With a version, as MariaDB takes no other UUIDs.
    key = UUID(bytes=digest[:16], version=5)
    return UniqueKey(key, unique.terms.held_while, unique.terms.until(due))


def check_expires(task_name: str, expires: object) -> timedelta | datetime:
    """Return seconds as a timedelta, and an aware datetime as it is.

    Raises TypeError or ValueError for anything else.
    """
    if not isinstance(expires, datetime):
        return check_duration(task_name, "expires", expires)
    if expires.tzinfo is None:
        raise ValueError(
            f"{task_name}: expires is {expires!r}, which has no time zone. Use an aware datetime, "
            "for example django.utils.timezone.now() + timedelta(hours=1)."
        )
    return _check_year(expires, "expires")


def _due(run_after: datetime | None, delay_s: int) -> datetime:
    return run_after or datetime.now(UTC) + timedelta(seconds=delay_s)


def _expires_at(expires: float | timedelta | datetime, due: datetime) -> datetime:
    """Return the time until which a call that is due then must have begun."""
    if not isinstance(expires, datetime):
        seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
        return due + timedelta(seconds=seconds)
    if expires <= due:
        raise ValueError(
            f"expires is {expires.isoformat()}, which is not after {due.isoformat()}, when the "
            "call is due: it would never run. Use a later time."
        )
    return expires


def check_delay(delay_s: object) -> None:
    """Raise ValueError unless this is a number of seconds for which SQS can delay a message."""
    is_number = isinstance(delay_s, int) and not isinstance(delay_s, bool)
    if not is_number or not 0 <= delay_s <= MAX_DELAY_S:  # type: ignore[operator]
        raise ValueError(
            f"delay is {delay_s!r}. Use whole seconds from 0 to {MAX_DELAY_S}; use run_after for a "
            "later time."
        )


def check_run_after(run_after: datetime | timedelta) -> datetime:
    """Return the moment as an aware datetime; a timedelta counts from now.

    Raises ValueError for a naive datetime, and outside the years 1970 to 8999.
    """
    if isinstance(run_after, timedelta):
        return _check_year(_from_now(run_after))
    if run_after.tzinfo is None:
        raise ValueError(
            f"run_after is {run_after!r}, which has no time zone. Use an aware datetime, for "
            "example django.utils.timezone.now() + timedelta(hours=1)."
        )
    return _check_year(run_after)


def check_priority(priority: object) -> int:
    """Return the priority. Raises ValueError unless it is a whole number from -100 to 100."""
    is_number = isinstance(priority, int) and not isinstance(priority, bool)
    if not is_number or priority not in PRIORITIES:
        raise ValueError(f"priority is {priority!r}. Use a whole number from -100 to 100.")
    return priority  # type: ignore[return-value]


def _from_now(delay: timedelta) -> datetime:
    try:
        return datetime.now(UTC) + delay
    except OverflowError:
        raise ValueError(f"run_after is {delay!r}, beyond the end of the calendar.") from None


def _check_year(moment: datetime, option: str = "run_after") -> datetime:
    if moment.year not in YEARS:
        raise ValueError(f"{option} is {moment!r}, outside the years 1970 to 8999.")
    return moment


def _check_group_key(key: object) -> None:
    if not isinstance(key, str) or GROUP_KEY_PATTERN.fullmatch(key) is None:
        raise ValueError(
            f"group_key is {reprlib.repr(key)}, which SQS refuses as a MessageGroupId. Use 1 to "
            f"{MAX_GROUP_KEY} ASCII letters, digits and punctuation marks, such as an id or a hash."
        )


def _seconds_until(moment: datetime) -> float:
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
