"""A limit of memory for worker processes, so that a task gets MemoryError where else the kernel
would kill it, or the whole function."""

import json
import logging
import os
import resource
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

logger = logging.getLogger("lambda_tasks")

MIB: Final = 1024 * 1024

RESERVE_BYTES: Final = 128 * MIB
"""For the handler, the fork server and the system beside the process that is limited."""

LEAST_ROOM_BYTES: Final = 64 * MIB
"""What a process may at least grow by: address space is used up long before memory is, and the
smallest functions must start."""

METADATA_TIMEOUT_S: Final = 2


def limit_memory() -> None:
    """Set RLIMIT_AS of this process from the memory of the place where it runs, on Linux.

    Nothing where that is unknown; never less than what is in use, and never more than was allowed.
    """
    memory_bytes = _of_this_place()
    in_use_bytes = _address_space_in_use()
    if memory_bytes is None or in_use_bytes is None:
        return
    limit = max(memory_bytes - RESERVE_BYTES, in_use_bytes + LEAST_ROOM_BYTES)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([limit, *allowed]), hard))


def _of_this_place() -> int | None:
    if (size_mib := os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")) is not None:
        return _bytes(size_mib, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
    if (uri := os.environ.get("ECS_CONTAINER_METADATA_URI_V4")) is not None:
        # The container's own limit; the whole task's where it has none.
        for path in ("", "/task"):
            limits = _read_json(uri + path).get("Limits") or {}
            if limits.get("Memory"):
                return _bytes(limits["Memory"], "Limits.Memory of the ECS metadata")
    return None


def _bytes(size_mib: Any, what: str) -> int | None:
    try:
        return int(size_mib) * MIB
    except (TypeError, ValueError):
        logger.warning("%s is %r, no number: there is no limit of memory.", what, size_mib)
        return None


def _read_json(uri: str) -> dict[str, Any]:
    parts = urlsplit(uri)
    try:
        connection = HTTPConnection(parts.netloc, timeout=METADATA_TIMEOUT_S)
        try:
            connection.request("GET", parts.path)
            content = json.loads(connection.getresponse().read())
        finally:
            connection.close()
    except (OSError, HTTPException, ValueError):
        logger.warning("The ECS metadata can't be read: there is no limit of memory.")
        return {}
    return content if isinstance(content, dict) else {}


def _address_space_in_use() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return None  # macOS, which has no such limit either
    return int(pages) * resource.getpagesize()
