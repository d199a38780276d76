"""The examination inside of the function: only there are network, role and image the real ones."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .. import registry
from ..runtime import Runtime
from .aws import Aws, learn
from .facts import Facts, LiveFunction, System
from .findings import Fact, Finding, NotChecked
from .versions import versions

EVENT: Final[Mapping[str, str]] = {"lambda_tasks": "doctor"}
"""The event that asks a function."""

ANSWER_WAIT_S: Final = 50.0
"""Seconds for a function to answer, with its cold start."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a function says of itself."""

    function: LiveFunction
    system: System
    """The project here, for comparison."""
    answer: Fact[Mapping[str, Any]]

    def __str__(self) -> str:
        return f"inside of {self.function}"

    @property
    def findings(self) -> Sequence[Finding]:
        """What it has found."""
        told = (self.answer.known or {}).get("findings", ())
        return [_finding(each, str(self)) for each in told]


def about_this_side() -> dict[str, Any]:
    """Return the versions and the tasks of this process, for comparison with another's."""
    registry.discover()
    return {"versions": versions(), "tasks": sorted(registry.names())}


async def ask_functions(runtime: Runtime, facts: Facts, *, deadline: float) -> list[Answer]:
    """Let each function examine itself."""
    return await asyncio.gather(
        *(_ask(runtime, each, facts.system, deadline) for each in facts.functions)
    )


async def _ask(runtime: Runtime, function: LiveFunction, system: System, deadline: float) -> Answer:
    aws = Aws(runtime, function.region, deadline=deadline)
    return Answer(function, system, await learn(_invoke(aws, function.arn)))


async def _invoke(aws: Aws, arn: str) -> Mapping[str, Any]:
    answer = await aws.call(
        "lambda",
        "invoke",
        waits_s=ANSWER_WAIT_S,
        FunctionName=arn,
        Payload=json.dumps(EVENT).encode(),
    )
    try:
        found = json.loads(await aws.ask("lambda:invoke", answer["Payload"].read))
    except ValueError as error:
        raise NotChecked(f"It has not answered with JSON: {error}") from None
    if not isinstance(found, dict) or "findings" not in found:
        raise NotChecked(f"It has answered {json.dumps(found)[:500]}")
    return found


def _finding(told: Mapping[str, Any], where: str) -> Finding:
    names = ("id", "severity", "is_checked", "found", "expected", "why", "fix", "template")
    return Finding(where=f"{where}: {told['where']}", **{name: told[name] for name in names})
