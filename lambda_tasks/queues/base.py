"""The interface of every kind of queue, and of the process that uses it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Final, Protocol, Self

from django.core.exceptions import ImproperlyConfigured

from ..core.lifecycle import SQS_TERMS, LookTerms
from ..core.limits import Rate
from ..core.message import Message, Outgoing
from ..core.signature import Signer
from ..ports import Source, TableQueue, Task, Transport
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
    """One queue of LAMBDA_TASKS_QUEUES."""

    name: str
    """The queue's key in the setting."""
    _: KW_ONLY
    max_timeout_s: float = MAX_OTHER_TIMEOUT_S
    """The longest hard timeout of its tasks."""
    rate: Rate | None = None
    """The most starts of all its tasks together; None for any number."""

    is_table: ClassVar[bool] = False
    """Whether workers receive its messages from the table of the records, which has priorities."""

    carried_by: ClassVar[str | None] = None
    """Name of the queue that carries its delayed messages; None where it can delay them itself."""

    has_workers: ClassVar[bool] = True
    """Whether `manage.py lambda_tasks worker` can consume it."""

    @property
    def look_terms(self) -> LookTerms:
        """The rules for when somebody must look at records that are stored for it."""
        return SQS_TERMS

    @classmethod
    @abstractmethod
    def parse(cls, setting: str, name: str, value: object) -> Self | None:
        """Return the queue of a value of LAMBDA_TASKS_QUEUES; None for a queue of another kind.

        Raises ImproperlyConfigured, with the fix, for an invalid queue of this kind.
        """

    @abstractmethod
    def make_transport(self, wiring: Wiring) -> Transport:
        """Return the transport that carries messages to the queue."""

    @classmethod
    @abstractmethod
    def make_sources(cls, queues: Sequence[Self], wiring: Wiring, *, once: bool) -> list[Source]:
        """Return sources from which a worker receives the messages of these queues.

        With `once`, the worker stops when the queues are empty, so polls are short. Raises
        ImproperlyConfigured where no worker can consume them.
        """

    @abstractmethod
    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """Raise MessageTooLarge or ImproperlyConfigured where the queue can't accept a message."""

    def problems(self, task: Task, *, hard_timeout_s: float) -> Iterator[str]:
        """Yield the reasons why a task can't run from this queue, for manage.py check."""
        if hard_timeout_s > self.max_timeout_s:
            yield (
                f"hard_timeout is {hard_timeout_s} s, but the queue {self.name!r} allows at most "
                f"{self.max_timeout_s} s."
            )

    @property
    def audience(self) -> str:
        """The AWS queue that messages are signed for, or "" for none."""
        return ""

    def is_fed_by(self, source: str) -> bool:
        """Return whether this queue's messages arrive from the AWS queue of this ARN or name."""
        return False

    async def postpone(  # noqa: B027 - most kinds have no visibility
        self, wiring: Wiring, receipt_handle: str, seconds: float
    ) -> None:
        """Hide a received message for some seconds; do nothing where the queue can't hide it."""


def setting_error(setting: str, value: object, fix: str) -> ImproperlyConfigured:
    """Return the error of a setting, with its name, its value, and the fix."""
    return ImproperlyConfigured(f"{setting} is {value!r}. {fix}")
