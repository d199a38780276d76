"""The dead letters of one queue, while a process looks at them, joined with their records."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from .. import conf, registry, runtime
from ..core.lifecycle import Status
from ..core.message import Message, decode, invocation_id_of
from ..core.redaction import REDACTED
from ..core.signature import verify
from ..errors import InvalidFilter, MessageRefused, UnknownTask
from ..models import TaskRecord
from ..ports import Task
from ..queues.dead_letters import DeadLetterMessage, DeadLetterQueue, Look
from ..queues.sqs import SQSQueue
from ..records import queries
from .asking import ask_queue, sqs_queues
from .describing import last_line, redacted_kwargs

PEEK_HIDDEN_S: Final = 30
"""Seconds for which messages are hidden from others that somebody only looks at, at most."""

CHANGE_HIDDEN_S: Final = 600
"""The same for those that may be sent back or deleted: at a low rate that takes a while."""

DURABLE_TASK: Final = "its task is durable and runs only from its record, but it carries the call"

NO_RECORD: Final = "there is no record of it"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message of a dead-letter queue, with what is known of its call."""

    queue: str
    """The key, in LAMBDA_TASKS_QUEUES, of the queue whose dead letter it is."""
    message_id: str
    """SQS's id of the message."""
    task_name: str | None
    """The task's dotted name; None for a body that can't be read."""
    invocation_id: UUID | None
    is_direct: bool
    """Whether it carries the call itself: without a record, nothing else is known of it."""
    status: str | None
    """The status of its record; None without a record."""
    args: list[Any]
    kwargs: dict[str, Any]
    """The arguments, with secret ones redacted; all of them, if the task is unknown here."""
    refused: str | None
    """Why its queue's consumers refuse it, as its signature is another queue's; None else."""
    error: str | None
    """The reason, or the last line of its record's traceback; None where nobody knows."""
    receives: int
    sent_at: datetime | None
    came_from: str | None = None
    """The ARN of another queue, with which this one shares its dead letters; None else."""

    @property
    def must_not_go_back(self) -> str:
        """The reason why the message would do nothing in its queue; "" for one that would run."""
        if self.came_from is not None:
            return f"it came from {self.came_from}"
        if self.refused is not None:
            return f"it would be refused again: {self.refused}"
        if self.status is None and not self.is_direct:
            return NO_RECORD
        if self.status is not None and Status(self.status).is_finished:
            return f"its record is {self.status}"
        return ""


Found = tuple[DeadLetterMessage, DeadLetter]


class Box:
    """The dead letters of one queue, while this process holds some of them."""

    def __init__(
        self,
        name: str,
        queue: SQSQueue,
        letters: DeadLetterQueue,
        *,
        hidden_s: int,
        ends_at: float,
    ) -> None:
        self.is_cut_off = False
        """Whether a look has ended because the time was up."""
        self._hidden_s = hidden_s
        self._ends_at = ends_at
        self._name = name
        self._queue = queue
        self._letters = letters
        self._held: dict[str, DeadLetterMessage] = {}

    @property
    def is_over(self) -> bool:
        """Whether the time is up: what has begun ends, and nothing else begins."""
        return time.monotonic() >= self._ends_at

    def count(self) -> int:
        """Return about how many there are to see."""
        return (ask_queue(self._name, self._letters.count) or {}).get("visible", 0)

    def look(self, *, limit: float = math.inf) -> Iterator[list[Found]]:
        """Yield up to `limit` messages, each once, in batches, with what is known of their calls.

        All stay hidden until release(), so that none comes twice. Ends when the time is up.
        """
        look = Look(limit)
        while look.goes_on:
            if self.is_over:
                self.is_cut_off = True
                return
            received = ask_queue(self._name, self._letters.receive, look.most, self._hidden_s)
            self._held |= {each.id: each for each in received}
            if new := look.add(received):
                yield list(zip(new, _join(self._queue, new), strict=True))

    def send_back(self, message: DeadLetterMessage) -> None:
        """Send a message to its queue, and delete it here."""
        send = self._letters.send_back
        ask_queue(self._name, send, message, self._queue, runtime.current())
        self._held.pop(message.id)

    def delete(self, messages: Sequence[DeadLetterMessage]) -> None:
        """Delete messages for good."""
        ask_queue(self._name, self._letters.delete, messages)
        for each in messages:
            self._held.pop(each.id)

    def release(self) -> None:
        """Let others see what is still held."""
        held, self._held = list(self._held.values()), {}
        if held:
            ask_queue(self._name, self._letters.release, held)


@contextmanager
def opened(
    name: str, *, hidden_s: int = CHANGE_HIDDEN_S, within: timedelta | None = None
) -> Iterator[Box]:
    """Provide the dead letters of a queue; what is held at the end is released.

    If this process is killed, others see them after `hidden_s` seconds. After the time `within`
    nothing else begins; each request to SQS has a limit of its own. Raises InvalidFilter for a
    queue without a dead-letter queue.
    """
    ends_at = math.inf
    if within is not None:
        limit_s = within.total_seconds()
        ends_at = time.monotonic() + limit_s
        hidden_s = min(hidden_s, math.ceil(limit_s) + PEEK_HIDDEN_S)
    queue = sqs_queues(name)[name]
    letters = ask_queue(name, DeadLetterQueue.find, queue, runtime.current())
    if letters is None:
        raise InvalidFilter(
            f"The queue {name!r} has no dead-letter queue. `manage.py lambda_tasks queues ensure "
            f"{name}` makes one."
        )
    box = Box(name, queue, letters, hidden_s=hidden_s, ends_at=ends_at)
    try:
        yield box
    finally:
        box.release()


def _join(queue: SQSQueue, messages: Sequence[DeadLetterMessage]) -> list[DeadLetter]:
    """Return messages with what is known of their calls, by one question to the records."""
    read = [_read(each, queue) for each in messages]
    ids = {message.invocation_id for message, _ in read if message is not None}
    records = {record.id: record for record in queries.find_many(ids)} if ids else {}
    return [
        _joined(queue, each, message, refused, records)
        for each, (message, refused) in zip(messages, read, strict=True)
    ]


def _read(each: DeadLetterMessage, queue: SQSQueue) -> tuple[Message | None, str | None]:
    """Return the message of a body, and why a delivery of it is refused."""
    keys, refused = conf.current().signing_keys, None
    try:
        verify(each.body, keys=keys, audience=queue.audience, now=time.time())
    except MessageRefused as error:
        refused = str(error)
    try:
        message = decode(each.body, fallback_id=invocation_id_of(each.id))
    except MessageRefused as error:
        return None, str(error)
    return message, refused or _refused_call(message)


def _refused_call(message: Message) -> str | None:
    """Return why a direct message is refused; None for one that runs, or whose task is unknown."""
    if message.durable or conf.current().accepts_any_call:
        return None
    task = _find_loaded(message)
    return DURABLE_TASK if task is not None and not task.is_direct(message.backend) else None


def _find_loaded(message: Message) -> Task | None:
    """Return the task of a message. Nothing is imported because a message names it."""
    try:
        return registry.resolve(message.task_name, message.backend, may_import=False)
    except UnknownTask:
        return None


def _joined(
    queue: SQSQueue,
    each: DeadLetterMessage,
    message: Message | None,
    refused: str | None,
    records: Mapping[UUID, TaskRecord],
) -> DeadLetter:
    id = None if message is None else message.invocation_id
    record = None if id is None else records.get(id)
    if record is not None:
        error = last_line(record.traceback)
    else:
        error = NO_RECORD if message is not None and message.durable else None
    args, kwargs = _shown_arguments(message, record)
    source = each.source_arn
    return DeadLetter(
        queue=queue.name,
        message_id=each.id,
        task_name=None if message is None else message.task_name,
        invocation_id=id,
        is_direct=message is not None and not message.durable,
        status=None if record is None else record.status,
        args=args,
        kwargs=kwargs,
        refused=refused,
        error=refused or error,
        receives=each.receives,
        sent_at=each.sent_at,
        came_from=None if source is None or queue.is_fed_by(source) else source,
    )


def _shown_arguments(
    message: Message | None, record: TaskRecord | None
) -> tuple[list[Any], dict[str, Any]]:
    if record is not None:
        return record.args or [], redacted_kwargs(record)
    if message is None:
        return [], {}
    if (task := _find_loaded(message)) is None:
        # Nobody here knows which of them are secret.
        return [REDACTED for _ in message.args], dict.fromkeys(message.kwargs, REDACTED)
    secret = task.secret_names | task.unknown_names(message.kwargs)
    hidden = dict.fromkeys(secret & message.kwargs.keys(), REDACTED)
    return list(message.args), message.kwargs | hidden
