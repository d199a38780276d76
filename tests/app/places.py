"""Tasks that tell of the place where they run."""

import os
import resource

from lambda_tasks import lambda_task


@lambda_task
def memory_limit() -> dict[str, int]:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return {"limit_mib": -1 if soft == resource.RLIM_INFINITY else soft >> 20, "pid": os.getpid()}


@lambda_task
def hog(*, mib: int) -> int:
    return len(bytearray(mib << 20))


@lambda_task
def environment(*, name: str) -> str | None:
    return os.environ.get(name)
