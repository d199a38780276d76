"""Real servers for the tests, each started on a free loopback port or socket and stopped."""

from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.process import ServerUnavailable
from tests.servers.redis_server import RedisServer

__all__ = ["MariaDBServer", "PostgresServer", "RedisServer", "ServerUnavailable"]
