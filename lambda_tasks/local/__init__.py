"""AWS on a laptop: an SQS endpoint on loopback, and Lambda's event source mapping."""

from .event_source import EventSourceMapping, LambdaContext
from .sqs_server import LocalSqs

__all__ = ["EventSourceMapping", "LambdaContext", "LocalSqs"]
