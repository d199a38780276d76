"""Real servers for the tests, each started on a free loopback port or socket and stopped."""


class ServerUnavailable(Exception):
    """A server can't be had on this machine; the message says why and how to get it."""
