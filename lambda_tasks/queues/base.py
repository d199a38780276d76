"""What every kind of queue says of itself, and what it may ask of the process that uses it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Final, Protocol, Self

from django.core.exceptions import ImproperlyConfigured

from ..core.lifecycle import SQS_TERMS, LookTerms
from ..core.message import Message, Outgoing
from ..core.signature import Signer
from ..ports import Source, TableQueue, Task, Transport
from .aws.client import AwsClient

MAX_LAMBDA_TIMEOUT_S: Final = 900
"""A function runs 15 minutes at most (Lambda quotas, AWS Lambda developer guide)."""

MAX_OTHER_TIMEOUT_S: Final = 7 * 24 * 3600
"""Batch and worker queues have no bound of AWS's; a week catches a slip of the finger."""


class Wiring(Protocol):
    """What a queue may ask of its process."""

    @property
    def aws_options(self) -> Mapping[str, Any]:
        """LAMBDA_TASKS_AWS."""
        ...

    def signer(self, audience: str) -> Signer | None:
        """What signs messages for a queue; None where nothing is signed."""

    @property
    def table_queue(self) -> TableQueue:
        """The records, as queues that are the table need them."""
        ...

    def client(
        self,
        service: str,
        options: Mapping[str, Any],
        *,
        waits_s: float = 0,
        has_lineage: bool = True,
    ) -> AwsClient:
        """The client of a service; queues with the same options share it. See AwsClient."""
        ...

    def transport(self, queue: str) -> Transport:
        """The transport of another queue. Raises ImproperlyConfigured for an unknown one."""
        ...

    def is_table(self, queue: str) -> bool:
        """Whether a queue is the table of the records."""
        ...

    async def store(self, messages: Sequence[Outgoing]) -> None:
        """Write the QUEUED records of messages."""


@dataclass(frozen=True, slots=True)
class Queue(ABC):
    """One queue of LAMBDA_TASKS_QUEUES, under its name there."""

    name: str
    _: KW_ONLY
    max_timeout_s: float = MAX_OTHER_TIMEOUT_S
    """The longest hard timeout of its tasks."""

    is_table: ClassVar[bool] = False
    """Its messages are worked off from the table of the records, which has priorities."""

    passes: ClassVar[str | None] = None
    """The queue that its delayed messages pass, as it can't delay them itself."""

    has_workers: ClassVar[bool] = True
    """`manage.py lambda_tasks worker` can consume it."""

    @property
    def look_terms(self) -> LookTerms:
        """When somebody must look at what is stored for it."""
        return SQS_TERMS

    @classmethod
    @abstractmethod
    def parse(cls, setting: str, name: str, value: object) -> Self | None:
        """The queue that a value of LAMBDA_TASKS_QUEUES means; None for one of another kind.

        Raises ImproperlyConfigured, with the fix, for one of this kind that can't work.
        """

    @abstractmethod
    def make_transport(self, wiring: Wiring) -> Transport:
        """What carries messages to it."""

    @classmethod
    @abstractmethod
    def make_sources(cls, queues: Sequence[Self], wiring: Wiring, *, once: bool) -> list[Source]:
        """What a worker receives messages of these queues from; `once`, until they are empty.

        Raises ImproperlyConfigured where no worker consumes them.
        """

    @abstractmethod
    def check_message(self, message: Message, body: str, *, is_signed: bool) -> None:
        """Raise MessageTooLarge, or ImproperlyConfigured, for a message that it can't take."""

    def problems(self, task: Task, *, hard_timeout_s: float) -> Iterator[str]:
        """Why a task can't run from it, for manage.py check."""
        if hard_timeout_s > self.max_timeout_s:
            yield (
                f"hard_timeout is {hard_timeout_s} s and the queue {self.name!r} allows "
                f"{self.max_timeout_s} s."
            )

    @property
    def audience(self) -> str:
        """What messages are signed for: the queue of AWS that brings them, or "" for none."""
        return ""

    def is_fed_by(self, source: str) -> bool:
        """Whether a queue of AWS of this ARN, or name, brings its messages."""
        return False

    async def postpone(  # noqa: B027 - most kinds have no visibility
        self, wiring: Wiring, receipt_handle: str, seconds: float
    ) -> None:
        """Make a received message visible again in so many seconds, where there is such a thing."""


def mistake(setting: str, value: object, fix: str) -> ImproperlyConfigured:
    """The error of a setting: its name, its value, what to do."""
    return ImproperlyConfigured(f"{setting} is {value!r}. {fix}")
