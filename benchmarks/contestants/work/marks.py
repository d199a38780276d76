"""Tasks that leave a mark, sync and async, as those of the peers do."""

from benchmarks.contestants import peer
from lambda_tasks.decorators import lambda_task


@lambda_task
def mark() -> None:
    peer.mark()


@lambda_task
async def amark() -> None:
    peer.mark()
