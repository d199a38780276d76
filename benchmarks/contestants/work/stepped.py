"""Durable functions whose steps write a row each, and one that sleeps for a day."""

from datetime import timedelta

from benchmarks.contestants.work.models import Shipment
from lambda_tasks import lambda_task
from lambda_tasks.durable import SyncWorkflowContext, WorkflowContext


def ship(*, number: int) -> int:
    Shipment.objects.create(number=number)
    return number


async def aship(*, number: int) -> int:
    await Shipment.objects.acreate(number=number)
    return number


@lambda_task(workflow=True)
def step_by_step(workflow: SyncWorkflowContext, *, steps: int) -> None:
    for number in range(steps):
        workflow.step(f"ship:{number}", ship, number=number)


@lambda_task(workflow=True)
async def astep_by_step(workflow: WorkflowContext, *, steps: int) -> None:
    for number in range(steps):
        await workflow.step(f"ship:{number}", aship, number=number)


@lambda_task(workflow=True)
async def sleep_for_a_day(workflow: WorkflowContext, *, number: int) -> int:
    await workflow.sleep("night", timedelta(days=1))
    return await workflow.step("ship", aship, number=number)
