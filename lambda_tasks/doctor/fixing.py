"""Puts right what is safe: requests that change a value, and delete, stop or start nothing."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from ..runtime import Runtime
from .aws import Aws
from .findings import Change, Finding, NotChecked

FIX_LIMIT_S: Final = 60.0
"""Seconds for all changes."""


def changes_of(findings: Iterable[Finding]) -> list[Change]:
    """Return the changes that put findings right, each once."""
    found: list[Change] = []
    for each in findings:
        if each.change is not None and each.change not in found:
            found.append(each.change)
    return found


async def make(runtime: Runtime, changes: Sequence[Change]) -> dict[str, str]:
    """Make changes one after another; return the reason of each that failed, by its command."""
    deadline = time.monotonic() + FIX_LIMIT_S
    failed: dict[str, str] = {}
    for each in changes:
        aws = Aws(runtime, each.region, deadline=deadline)
        try:
            await aws.call(each.service, each.operation, **each.parameters)
        except NotChecked as reason:
            failed[str(each)] = str(reason)
    return failed
