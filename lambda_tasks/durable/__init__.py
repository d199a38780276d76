"""Durable functions: workflows that are written as one function, and survive every crash.

    @lambda_task(workflow=True)
    async def fulfil(workflow: WorkflowContext, *, order_id: int) -> str:
        receipt = await workflow.step("charge", charge_card, order_id=order_id)
        workflow.on_failure("refund", refund, receipt=receipt)
        await workflow.sleep("cool down", timedelta(days=14))
        return await workflow.run("survey", send_survey.step(order_id=order_id))

A step commits its writes together with its result, its *checkpoint*. The next run of the function
begins at its first line, and gets the results of the steps that are done from their checkpoints. So
the function must take the same way with the same results: put into a step what may differ, like the
time, or a query.
"""

from .calls import DurableRun, StepState, asignal, signal
from .contexts import SyncWorkflowContext, WorkflowContext

__all__ = [
    "DurableRun",
    "StepState",
    "SyncWorkflowContext",
    "WorkflowContext",
    "asignal",
    "signal",
]
