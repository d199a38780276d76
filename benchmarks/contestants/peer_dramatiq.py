"""dramatiq on Redis, with two processes of eight threads, as it has by default."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.contestants import peer

dramatiq.set_broker(RedisBroker(url=os.environ["BENCHMARK_REDIS"]))

COMMANDS = [["-m", "dramatiq", "benchmarks.contestants.peer_dramatiq", "--processes", "2"]]


@dramatiq.actor
def mark() -> None:
    peer.mark()


def work_off(*, kind: str, messages: int) -> dict[str, float]:
    for _ in range(messages):
        mark.send()
    return peer.work_off(messages, COMMANDS)


def lone(*, kind: str, calls: int) -> float:
    return peer.lone(mark.send, COMMANDS, calls)
