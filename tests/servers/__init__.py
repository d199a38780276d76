"""Real servers for the tests, each started on a free loopback port or socket and stopped."""

from tests.servers.crew import Crew, WorkerProcess
from tests.servers.faulty_sqs import Fault, FaultySqs
from tests.servers.fleet import Fleet
from tests.servers.hurried_sqs import HurriedSqs
from tests.servers.lambda_runtime import (
    FunctionError,
    FunctionTimedOut,
    LambdaProcess,
    RuntimeExited,
)
from tests.servers.mariadb import MariaDBServer
from tests.servers.moto import Moto
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import PostgresServer
from tests.servers.process import ServerUnavailable
from tests.servers.redis_server import RedisServer
from tests.servers.silent_proxy import SilentProxy
from tests.servers.tcp_proxy import TcpProxy

__all__ = [
    "Crew",
    "Fault",
    "FaultySqs",
    "Fleet",
    "FunctionError",
    "FunctionTimedOut",
    "HurriedSqs",
    "LambdaProcess",
    "MariaDBServer",
    "Moto",
    "PgBouncer",
    "PostgresServer",
    "RedisServer",
    "RuntimeExited",
    "ServerUnavailable",
    "SilentProxy",
    "TcpProxy",
    "WorkerProcess",
]
