"""The memory limit of worker processes.

With it a task gets a MemoryError; without it the kernel kills the process, or the whole function.
"""

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
"""Memory for the handler, the fork server and the system, beside the limited process."""

MIN_GROWTH_BYTES: Final = 64 * MIB
"""The address space by which a process may always grow.

Processes reserve far more address space than memory, and the smallest functions must start.
"""

METADATA_TIMEOUT_S: Final = 2
"""Seconds for the metadata endpoint of ECS to answer."""


def limit_memory() -> None:
    """Set RLIMIT_AS of this process from the memory of the function or container, on Linux.

    Sets nothing where that is unknown. The limit is never below the address space in use plus
    MIN_GROWTH_BYTES, and never above an existing limit.
    """
    memory_bytes = _host_memory_bytes()
    in_use_bytes = _address_space_bytes()
    if memory_bytes is None or in_use_bytes is None:
        return
    limit = max(memory_bytes - RESERVE_BYTES, in_use_bytes + MIN_GROWTH_BYTES)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [each for each in (soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([limit, *allowed]), hard))


def _host_memory_bytes() -> int | None:
    if (size_mib := os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")) is not None:
        return _parse_mib(size_mib, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
    if (uri := os.environ.get("ECS_CONTAINER_METADATA_URI_V4")) is not None:
        # The limit of this container, or else that of the whole ECS task.
        for path in ("", "/task"):
            limits = _read_json(uri + path).get("Limits") or {}
            if limits.get("Memory"):
                return _parse_mib(limits["Memory"], "Limits.Memory of the ECS metadata")
    return None


def _parse_mib(size_mib: Any, source: str) -> int | None:
    try:
        return int(size_mib) * MIB
    except (TypeError, ValueError):
        logger.warning(
            "%s is %r, which is not a number: worker processes get no memory limit.",
            source,
            size_mib,
        )
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
        logger.warning("The ECS metadata can't be read: worker processes get no memory limit.")
        return {}
    return content if isinstance(content, dict) else {}


def _address_space_bytes() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:
        return None  # macOS, which does not enforce RLIMIT_AS either.
    return int(pages) * resource.getpagesize()
