"""procrastinate on PostgreSQL: sync tasks on threads, async tasks on its loop, ten at a time."""

import json
import os

from procrastinate import App, PsycopgConnector

from benchmarks.contestants import peer

DATABASE = json.loads(os.environ["BENCHMARK_DATABASE"])
OPTIONS = {"host": DATABASE["HOST"], "user": DATABASE["USER"], "dbname": DATABASE["NAME"]}

app = App(connector=PsycopgConnector(kwargs=OPTIONS))
NAME = "benchmarks.contestants.peer_procrastinate.app"
COMMANDS = [
    ["-m", "procrastinate", f"--app={NAME}", "--log-level=error", "worker", "--concurrency=10"]
]


@app.task
def mark() -> None:
    peer.mark()


@app.task
async def amark() -> None:
    peer.mark()


TASKS = {"sync": mark, "async": amark}


def migrate() -> None:
    with app.open():
        app.schema_manager.apply_schema()


def work_off(*, kind: str, messages: int) -> dict[str, float]:
    with app.open():
        TASKS[kind].batch_defer(*[{}] * messages)
    return peer.work_off(messages, COMMANDS)


def lone(*, kind: str, calls: int) -> float:
    with app.open():
        return peer.lone(TASKS[kind].defer, COMMANDS, calls)
