"""All that a project needs to run, with ways to its database and to SQS that can be disturbed."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from benchmarks import contest, environments
from benchmarks.contest import Contestant
from benchmarks.faults.web import Web
from lambda_tasks.local import LocalSqs
from tests.servers import Crew, Fleet, HurriedSqs, LambdaProcess, TcpProxy, WorkerProcess
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.stranger import MariaDBStranger, PostgresStranger, Stranger

Consumer = Literal["lambda", "worker"]
Engine = Literal["postgresql", "mariadb"]

CONSUMERS: Final[tuple[Consumer, ...]] = ("lambda", "worker")
ENGINES: Final[tuple[Engine, ...]] = ("postgresql", "mariadb")

NAME: Final = "shop"
"""The project's database, and its user there, who is no administrator."""

DEAD_LETTERS: Final = "default-dlq"

MAX_RECEIVES: Final = 5
"""The least that is advised before a message goes to the dead letters."""

PROCESSES: Final = 3
"""Functions, or workers, side by side."""

FUNCTION_TIMEOUT_S: Final = 45
"""And the queue's visibility timeout, the shortest that AWS takes with it."""

DRAIN_S: Final = 10
DRAIN_MARGIN_S: Final = 5
"""What a worker needs beside its drain, to give back what runs and to end."""

HURRY: Final = 10
"""So many times as soon a visibility timeout is over that the library asks for."""


@dataclass(frozen=True)
class Site:
    """What a trial works with. `web`, `bookkeeper` and consumers are processes of the project.

    The bookkeeper goes to the database directly, so that no disturbance reaches it.
    """

    engine: Engine
    sqs: LocalSqs
    sqs_way: TcpProxy
    database: PostgresServer | MariaDBServer
    database_way: TcpProxy
    stranger: Stranger
    queue_url: str
    environment: Mapping[str, str]
    bookkeeper: Contestant
    directory: Path
    """Where the logs and the logbook are."""
    processes: int
    function_timeout_s: int

    def web(self) -> Web:
        log = self.directory / "web.log"
        return Web(Contestant("mixed_shop", environments.here(), self.environment, log=log))

    def fleet(self, *, veterans: int = 0) -> Fleet:
        """Functions of which the first `veterans` are not to be killed."""
        functions = [self.function() for _ in range(self.processes)]
        return Fleet(
            self.queue_url, functions, client_options=self.sqs.client_options, veterans=veterans
        )

    def crew(self, *, veterans: int = 0) -> Crew:
        """Workers of both queues, of which the first `veterans` are not to be killed."""
        arguments = ["--queue", "default", "--queue", "table", "--drain", str(DRAIN_S)]
        workers = [
            WorkerProcess(
                *arguments, log=self.directory / f"worker-{number}.log", env=self.environment
            )
            for number in range(self.processes)
        ]
        return Crew(workers, veterans=veterans)

    def function(self) -> LambdaProcess:
        return LambdaProcess(
            "benchmarks.contestants.function.handler",
            timeout_s=self.function_timeout_s,
            **self.environment,
        )

    def has_dead_letters(self) -> bool:
        return any(self.sqs.counts(self.sqs.queue_url(DEAD_LETTERS)).values())

    def dead_letters(self) -> list[str]:
        """The bodies of those that were not told yet."""
        bodies: list[str] = []
        url = self.sqs.queue_url(DEAD_LETTERS)
        while messages := self.sqs.client.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=43_200
        ).get("Messages", []):
            bodies += [message["Body"] for message in messages]
        return bodies


@contextmanager
def open_site(
    engine: Engine,
    directory: Path,
    *,
    hurry: float = HURRY,
    processes: int = PROCESSES,
    function_timeout_s: int = FUNCTION_TIMEOUT_S,
    strikes: bool = False,
) -> Iterator[Site]:
    """Start the servers and make the tables.

    With `strikes` the durable functions among the tasks strike their processes down, each once.

    Raises ServerUnavailable, with the reason, where a server can't be had.
    """
    with ExitStack() as stack:
        sqs = stack.enter_context(LocalSqs())
        queue_url = sqs.create_queue(
            "default", visibility_timeout_s=function_timeout_s, max_receive_count=MAX_RECEIVES
        )
        hurried = stack.enter_context(HurriedSqs(sqs.endpoint_url, hurry=hurry))
        sqs_way = stack.enter_context(TcpProxy(lambda: _connect(hurried.port)))
        database: PostgresServer | MariaDBServer
        database = PostgresServer() if engine == "postgresql" else MariaDBServer()
        stack.enter_context(database)
        _make_database(database)
        database_way = stack.enter_context(TcpProxy(database.open_socket))
        endpoint = f"http://127.0.0.1:{sqs_way.port}"
        entry = database.django_database(NAME, create=False) | {"USER": NAME}
        environment = contest.aws(sqs.client_options) | {
            "BENCHMARK_QUEUE_URL": queue_url.replace(sqs.endpoint_url, endpoint),
            "BENCHMARK_TABLE": "yes",
            "BENCHMARK_LOGBOOK": str(directory / "logbook"),
            "AWS_ENDPOINT_URL": endpoint,
        }
        environment |= {"BENCHMARK_STRIKES": "yes"} if strikes else {}
        by_way = entry | {"HOST": "127.0.0.1", "PORT": database_way.port}
        bookkeeper = stack.enter_context(
            Contestant(
                "mixed_shop",
                environments.here(),
                environment | contest.django(entry, durable=True),
            )
        )
        bookkeeper.ask("migrate")
        yield Site(
            engine=engine,
            sqs=sqs,
            sqs_way=sqs_way,
            database=database,
            database_way=database_way,
            stranger=_stranger(database),
            queue_url=queue_url,
            environment=environment | contest.django(by_way, durable=True),
            bookkeeper=bookkeeper,
            directory=directory,
            processes=processes,
            function_timeout_s=function_timeout_s,
        )


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))


def _make_database(server: PostgresServer | MariaDBServer) -> None:
    """With the user whose it is."""
    with server.connect() as connection, connection.cursor() as cursor:
        for statement in _STATEMENTS[type(server)]:
            cursor.execute(statement)


_STATEMENTS: Final = {
    PostgresServer: (f"CREATE ROLE {NAME} LOGIN", f"CREATE DATABASE {NAME} OWNER {NAME}"),
    MariaDBServer: (
        f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4",
        f"CREATE USER {NAME}@'%'",
        f"GRANT ALL ON {NAME}.* TO {NAME}@'%'",
    ),
}


def _stranger(server: PostgresServer | MariaDBServer) -> Stranger:
    if isinstance(server, PostgresServer):
        return PostgresStranger(server, database=NAME, user=NAME)
    return MariaDBStranger(server, database=NAME, user=NAME)
