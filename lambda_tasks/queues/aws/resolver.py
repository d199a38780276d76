"""The look-up of AWS's hosts, in reserved threads and with a time limit.

asyncio looks hosts up in the event loop's default executor, which tasks can fill. And if the
system's resolver does not answer, a send would take longer than all of the client's time limits.
"""

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from ...threads import make_executor

N_THREADS: Final = 4

LOOKUP_TIMEOUT_S: Final = 3.0


class TimeLimitedResolver(AbstractResolver):
    """See aiohttp.abc.AbstractResolver."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises OSError where it has none, or where no answer arrives within LOOKUP_TIMEOUT_S.
        """
        looking = asyncio.get_running_loop().run_in_executor(
            _threads(), _look_up, host, port, family
        )
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return await asyncio.shield(looking)
        except TimeoutError:
            raise OSError(f"The look-up of {host} took over {LOOKUP_TIMEOUT_S} s.") from None

    async def close(self) -> None:
        """Do nothing: the threads stay for the next client."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=each_family,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for each_family, _, protocol, _, address in found
    ]


@cache
def _threads() -> ThreadPoolExecutor:
    return make_executor(N_THREADS, "lambda_tasks-resolver")


# A forked child has none of its parent's threads, so it needs a new pool.
os.register_at_fork(after_in_child=_threads.cache_clear)
