"""The kinds of queues, and what a project needs for a kind of its own.

Each kind has a file with its settings, limits, checks, transport and source; `kinds` lists them.
"""

from ..core.batching import BatchLimits
from ..core.message import Message, Outgoing
from ..core.signature import SIGNATURE_BYTES
from ..errors import MessageTooLarge
from ..ports import Delivery, ReceivedBatch, SendFailure, Settlement, Source, Transport
from .base import Queue, Wiring
from .pulling import PullSource

__all__ = [
    "SIGNATURE_BYTES",
    "BatchLimits",
    "Delivery",
    "Message",
    "MessageTooLarge",
    "Outgoing",
    "PullSource",
    "Queue",
    "ReceivedBatch",
    "SendFailure",
    "Settlement",
    "Source",
    "Transport",
    "Wiring",
]
