"""The interface of every kind of queue, and of the process that uses it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Protocol, Self

from django.core.exceptions import ImproperlyConfigured

from ..core.lifecycle import MAX_DELAY, LookTerms
from ..core.limits import Rate
from ..core.message import Message, Outgoing, invocation_id_of
from ..core.signature import Signer
from ..ports import Delivery, Source, TableQueue, Task, Transport
from .aws.client import AwsClient

MAX_LAMBDA_TIMEOUT_S: Final = 900
"""The longest run of a function: 15 minutes (Lambda quotas, AWS Lambda developer guide)."""

MAX_OTHER_TIMEOUT_S: Final = 7 * 24 * 3600
"""The longest hard timeout on other queues. AWS sets none, but over a week is likely a typo."""


class Wiring(Protocol):
    """The services of the process that a queue may use."""

    @property
    def aws_options(self) -> Mapping[str, Any]:
        """The setting LAMBDA_TASKS_AWS: keyword arguments for AWS's clients."""
        ...

    @property
    def queue_prefix(self) -> str:
        """The setting LAMBDA_TASKS_QUEUE_PREFIX: what stands before the names of queues."""
        ...

    def signer(self, audience: str) -> Signer | None:
        """Return the signer for a queue's messages; None where messages are not signed."""

    @property
    def table_queue(self) -> TableQueue:
        """The records, for queues that are the table itself."""
        ...

    def client(
        self,
        service: str,
        options: Mapping[str, Any],
        *,
        default_endpoint_url: str | None = None,
        waits_s: float = 0,
        has_lineage: bool = True,
    ) -> AwsClient:
        """Return the client of a service; queues with the same options share it. See AwsClient."""
        ...

    def transport(self, queue: str) -> Transport:
        """Return the transport of another queue.

        Raises ImproperlyConfigured where LAMBDA_TASKS_QUEUES has no queue of this name.
        """
        ...

    def is_table(self, queue: str) -> bool:
        """Return whether a queue is the table of the records."""
        ...

    async def store(self, messages: Sequence[Outgoing]) -> None:
        """Write the QUEUED records of messages."""


@dataclass(frozen=True, slots=True)
class Queue(ABC):
    """One queue of LAMBDA_TASKS_QUEUES.

    Fields of a subclass are the options that its setting may have. A subclass has to be a frozen
    dataclass, and to say how messages get into the queue (`make_transport`) and, for workers, out
    of it (`make_source`). Everything else has a default.
    """

    name: str
    """The queue's key in the setting."""
    _: KW_ONLY
    max_timeout_s: float = MAX_OTHER_TIMEOUT_S
    """The longest hard timeout of its tasks."""
    rate: Rate | None = None
    """The most starts of all its tasks together; None for any number."""

    can_delay: ClassVar[bool] = False
    """Whether it holds a message back by itself for the message's `delay_s`, up to 15 minutes.

    Where it can't, a message that is due later waits in its row, and the relay sends it in time.
    """

    keeps_order: ClassVar[bool] = False
    """Whether it delivers the messages of a group one after the other, as a FIFO queue does."""

    has_workers: ClassVar[bool] = True
    """Whether `manage.py lambda_tasks worker` can consume it."""

    is_table: ClassVar[bool] = False
    """Whether workers receive its messages from the table of the records, which has priorities.

    Only the library's own kinds are.
    """

    carried_by: ClassVar[str | None] = None
    """Name of the queue that carries its delayed messages; None where no other queue does."""

    @property
    def look_terms(self) -> LookTerms:
        """The rules for when somebody must look at records that are stored for it."""
        ahead = MAX_DELAY if self.can_delay and not self.keeps_order else timedelta(0)
        return LookTerms(ahead=ahead, in_order=self.keeps_order)

    @classmethod
    def parse(cls, setting: str, name: str, value: object) -> Self | None:
        """Return the queue of a value of LAMBDA_TASKS_QUEUES; None for a queue of another kind.

        By default the value is a dict with the fields of the dataclass. A TypeError or ValueError
        of `__post_init__` is told as a mistake in the setting. Raises ImproperlyConfigured, with
        the fix.
        """
        given = dict(value) if isinstance(value, Mapping) else {}
        options = [each.name for each in fields(cls) if each.init][1:]
        options.remove("rate")
        for option in given:
            if option not in options:
                raise ImproperlyConfigured(
                    f"{setting}: {option!r} is not an option of {cls.__qualname__}, which has "
                    f"{', '.join(map(repr, options))}. The options are the fields of the class, a "
                    "frozen dataclass."
                )
        try:
            return cls(name, **given)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{setting}: {error}") from error

    @abstractmethod
    def make_transport(self, wiring: Wiring) -> Transport:
        """Return the transport that carries messages to the queue."""

    def make_source(self, wiring: Wiring, *, once: bool) -> Source:
        """Return the source from which a worker receives the queue's messages.

        With `once`, the worker stops when the queue is empty, so polls are short. It is called in
        the worker's event loop. Raises ImproperlyConfigured where no worker can consume the queue.
        """
        raise ImproperlyConfigured(
            f"The queue {self.name!r} is a {type(self).__qualname__}, and no worker can consume it."
        )

    @classmethod
    def make_sources(cls, queues: Sequence[Self], wiring: Wiring, *, once: bool) -> list[Source]:
        """Return the sources of several queues of this kind. See make_source()."""
        return [each.make_source(wiring, once=once) for each in queues]

    def check_message(  # noqa: B027 - a queue may take any message
        self, message: Message, body: str, *, is_signed: bool
    ) -> None:
        """Raise MessageTooLarge or ImproperlyConfigured where the queue can't accept a message.

        `body` is not signed yet. A signature adds SIGNATURE_BYTES.
        """

    def problems(self, task: Task, *, hard_timeout_s: float) -> Iterator[str]:
        """Yield the reasons why a task can't run from this queue, for manage.py check."""
        if hard_timeout_s > self.max_timeout_s:
            yield (
                f"hard_timeout is {hard_timeout_s} s, but the queue {self.name!r} allows at most "
                f"{self.max_timeout_s} s."
            )

    @property
    def source(self) -> str:
        """The source of its deliveries: a text that tells it from every other queue.

        No queue of SQS has a name with a slash.
        """
        return f"queue/{self.name}"

    def is_fed_by(self, source: str) -> bool:
        """Return whether this queue's messages arrive from this source, or ARN or name in AWS."""
        return source == self.source

    @property
    def audience(self) -> str:
        """The name of the queue in signatures, which hold for this queue only.

        "" where nobody but the library can put messages into it.
        """
        return self.source

    @property
    def is_in_aws(self) -> bool:
        """Whether AWS's client sends its messages."""
        return False

    def sign(self, body: str, wiring: Wiring) -> str:
        """Return a body as it goes into the queue: signed, if LAMBDA_TASKS_SIGNING_KEYS is set."""
        signer = wiring.signer(self.audience)
        return body if signer is None else signer.sign(body, now=time.time())

    def delivery(
        self,
        id: str,
        body: object,
        *,
        receives: int = 1,
        enqueued_at: datetime | None = None,
        order_key: str | None = None,
        is_redelivered: bool = True,
    ) -> Delivery:
        """Return the delivery of a message of this queue. See Delivery for the arguments."""
        return Delivery(
            id=id,
            body=body,
            source=self.source,
            fallback_id=invocation_id_of(id),
            receives=receives,
            enqueued_at=enqueued_at,
            order_key=order_key,
            is_redelivered=is_redelivered,
        )

    async def postpone(  # noqa: B027 - most kinds have no visibility
        self, wiring: Wiring, receipt_handle: str, seconds: float
    ) -> None:
        """Hide a received message for some seconds; do nothing where the queue can't hide it."""


def setting_error(setting: str, value: object, fix: str) -> ImproperlyConfigured:
    """Return the error of a setting, with its name, its value, and the fix."""
    return ImproperlyConfigured(f"{setting} is {value!r}. {fix}")
