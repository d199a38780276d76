"""From a checked call to a message that is ready to leave.

Whatever can be known at the call is raised here, so that the caller's transaction can roll back.
"""

from datetime import UTC, datetime, timedelta

from django.core.exceptions import ImproperlyConfigured

from .. import conf, sealing
from ..core.message import MAX_GROUP_KEY, PRIORITIES, YEARS, Message, Outgoing, check_size
from ..core.retries import MAX_DELAY_S
from ..core.signature import SIGNATURE_BYTES
from .transports import batch, sqs


def is_durable(queue: str, chosen: bool | None) -> bool:
    """Whether a message for this queue is stored; `chosen` is None where the setting decides.

    Raises ImproperlyConfigured for an unknown queue.
    """
    settings = conf.current()
    destination = settings.queue(queue)
    if settings.noop_execution or settings.eager:
        return False
    if settings.is_table(destination):
        return True  # the row is the queue
    return settings.durable if chosen is None else chosen


def prepare(message: Message, *, queue: str, delay_s: int = 0) -> Outgoing:
    """Encode a message for a queue.

    Raises ImproperlyConfigured for an unknown queue and for secrets that can't be stored,
    ValueError for a delay or a group key out of range and for text that can't travel,
    MessageTooLarge.
    """
    settings = conf.current()
    destination = settings.queue(queue)
    check_delay(delay_s)
    _check_group_key(message)
    if message.priority and not settings.is_table(destination):
        raise ValueError(
            f"priority is {message.priority}, and the queue {queue!r} has none: SQS and AWS Batch "
            "know no priorities. Use a queue of its own, or a database queue."
        )
    if isinstance(destination, conf.BatchQueue) and message.secret_kwargs:
        raise ImproperlyConfigured(
            f"{message.task_name} has secret arguments, and the queue {queue!r} is AWS Batch's, "
            "which shows a job's message to whoever may describe it. Pass a reference instead."
        )
    if message.durable and message.secret_kwargs:
        sealing.check_available(message.task_name)
    body = message.encode()
    _check_size(message, body, destination, is_signed=bool(settings.signing_keys))
    return Outgoing(
        message=message, body=body, queue=queue, delay_s=delay_s or _wait_s(message.run_after)
    )


def check_delay(delay_s: object) -> None:
    """Raise ValueError unless it is a number of seconds that SQS can delay a message."""
    is_number = isinstance(delay_s, int) and not isinstance(delay_s, bool)
    if not is_number or not 0 <= delay_s <= MAX_DELAY_S:  # type: ignore[operator]
        raise ValueError(
            f"delay is {delay_s!r}. Use whole seconds from 0 to {MAX_DELAY_S}; for later than "
            "that there is run_after."
        )


def check_run_after(run_after: datetime | timedelta) -> datetime:
    """The moment that is meant. Raises ValueError for a naive datetime or one far off."""
    if isinstance(run_after, timedelta):
        return _check_year(_from_now(run_after))
    if run_after.tzinfo is None:
        raise ValueError(
            f"run_after is {run_after!r}, which has no time zone. Use django.utils.timezone.now() "
            "and what follows from it."
        )
    return _check_year(run_after)


def check_priority(priority: object) -> int:
    """The priority. Raises ValueError unless it is a whole number from -100 to 100."""
    is_number = isinstance(priority, int) and not isinstance(priority, bool)
    if not is_number or priority not in PRIORITIES:
        raise ValueError(f"priority is {priority!r}. Use a whole number from -100 to 100.")
    return priority  # type: ignore[return-value]


def _from_now(delay: timedelta) -> datetime:
    try:
        return datetime.now(UTC) + delay
    except OverflowError:
        raise ValueError(f"run_after is {delay!r}, beyond the end of the calendar.") from None


def _check_year(moment: datetime) -> datetime:
    if moment.year not in YEARS:
        raise ValueError(f"run_after is {moment!r}, outside the years 1970 to 8999.")
    return moment


def _check_group_key(message: Message) -> None:
    key = message.group_key
    if key is not None and not 0 < len(key) <= MAX_GROUP_KEY:
        raise ValueError(f"group_key has {len(key)} characters. SQS takes 1 to {MAX_GROUP_KEY}.")


def _check_size(message: Message, body: str, destination: conf.Queue, *, is_signed: bool) -> None:
    if isinstance(destination, conf.DatabaseQueue):
        return
    limit = sqs.MAX_MESSAGE_BYTES - (SIGNATURE_BYTES if is_signed else 0)
    if isinstance(destination, conf.BatchQueue):
        body, limit = batch.as_overrides(body, is_signed=is_signed), batch.MAX_OVERRIDES
    check_size(body, task_name=message.task_name, limit_bytes=limit)


def _wait_s(run_after: datetime | None) -> int:
    """Seconds until then, as far as SQS can delay; the rest waits on arrival."""
    if run_after is None:
        return 0
    wait = (run_after - datetime.now(UTC)).total_seconds()
    return round(min(max(wait, 0), MAX_DELAY_S))
