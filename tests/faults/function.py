"""The Lambda function of these tests: ours, which kills itself once at each point that FAULT names.

The points are separated by "|". The file FAULT_MARKER, with the point behind its name, says that it
has done so."""

import os
import signal
from collections.abc import Callable
from typing import Any

import django

django.setup()

from lambda_tasks import handler as ours  # noqa: E402
from lambda_tasks.enqueue.on_commit import Enqueuer  # noqa: E402
from lambda_tasks.execution import time_budget  # noqa: E402
from lambda_tasks.execution.attempt import Attempt  # noqa: E402
from lambda_tasks.records import claims  # noqa: E402
from lambda_tasks.records.claims import RecordClaims  # noqa: E402
from lambda_tasks.records.joins import count_ends  # noqa: E402
from lambda_tasks.runtime import Runtime  # noqa: E402
from tests.app.ledger import first_time  # noqa: E402

# A dead worker's tasks are to be taken over within the patience of a test.
time_budget.LEASE_MARGIN_S = 1.0  # type: ignore[misc]


def handler(event: Any, context: Any) -> Any:
    strike("after the receive")
    answer = ours.handler(event, context)
    strike("before the response")
    return answer


def strike(point: str) -> None:
    is_meant = point in os.environ.get("FAULT", "").split("|")
    if is_meant and first_time(f"{os.environ['FAULT_MARKER']} {point}"):
        os.kill(os.getpid(), signal.SIGKILL)


def _after(function: Callable[..., Any], point: str) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        strike(point)
        return result

    return wrapped


def _before(function: Callable[..., Any], point: str) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        strike(point)
        return function(*args, **kwargs)

    return wrapped


def _install() -> None:
    patches: dict[Any, dict[str, Callable[..., Any]]] = {
        RecordClaims: {"claim": _after(RecordClaims.claim, "after the claim")},
        Attempt: {
            "succeed": _after(
                _before(Attempt.succeed, "after the task's effect"), "after the commit"
            )
        },
        Runtime: {"_send_stored": _before(Runtime._send_stored, "between the record and its send")},
        claims: {"count_ends": _after(count_ends, "after an end is counted")},
        Enqueuer: {
            "asend_released": _before(Enqueuer.asend_released, "before released steps are sent")
        },
    }
    for owner, methods in patches.items():
        for name, method in methods.items():
            setattr(owner, name, method)


_install()
