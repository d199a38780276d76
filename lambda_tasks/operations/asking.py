"""Questions to the queues, which a process asks on the event loop of its sends."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .. import conf, runtime
from ..errors import InvalidFilter, QueueUnavailable
from ..queues.aws.errors import RequestFailed
from ..queues.sqs import SQSQueue
from ..queues.sqs_provision import QueueElsewhere
from .checking import known_queue

T = TypeVar("T")


def ask_queue(name: str, question: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run a coroutine function that asks AWS about a queue, and return its result.

    Raises QueueUnavailable, with the queue's name, where AWS refuses or can't be reached.
    """
    try:
        return runtime.current().portal.call(question, *args)
    except (RequestFailed, QueueElsewhere) as error:
        raise QueueUnavailable(f"The queue {name!r}: {error}") from error


def sqs_queues(name: str | None) -> dict[str, SQSQueue]:
    """Return the SQS queues of the settings by their names, or the one of this name.

    Raises InvalidFilter for an unknown name, and for a queue that is not in SQS.
    """
    queues = {
        key: queue for key, queue in conf.current().queues.items() if isinstance(queue, SQSQueue)
    }
    if name is None:
        return queues
    if known_queue(name) not in queues:
        raise InvalidFilter(
            f"The queue {name!r} is not in SQS, so it has neither attributes nor dead letters. "
            f"The queues in SQS are: {', '.join(map(repr, queues)) or 'none'}."
        )
    return {name: queues[name]}
