"""Limits: never more at once than allowed, nothing idle while somebody waits, and nothing lost."""

from typing import Any

import pytest

from lambda_tasks import conf, registry, runtime
from lambda_tasks.execution.needs import needs_of
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import Delivery, ResolvedDelivery

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _tables(settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}


def waiting() -> list[str]:
    """The names of the invocations that wait for a place, the first one first."""
    records = TaskRecord.objects.exclude(limit_key=None).order_by("-priority", "enqueued_at")
    return [record.kwargs["name"] for record in records]


def delivery_of(record: TaskRecord) -> ResolvedDelivery:
    with runtime.current().table_queue.lock_due(["default"], limit=100) as due:
        (message,) = [each for each in due if each.invocation_id == record.id]
    task = registry.resolve(message.task_name)
    return ResolvedDelivery(
        delivery=Delivery(
            id=str(record.id), source="", fallback_id=record.id, message=message,
            is_redelivered=False,
        ),
        message=message,
        task=task,
        look=conf.current().look_terms("default"),
        needs_of=needs_of(task, message, "default", None, runtime.current().locks),
    )  # fmt: skip
