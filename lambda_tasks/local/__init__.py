"""AWS on a laptop: an SQS endpoint on loopback, and what Lambda does between it and the handler."""

from .event_source import EventSourceMapping, LambdaContext
from .sqs_server import LocalSqs

__all__ = ["EventSourceMapping", "LambdaContext", "LocalSqs"]
