"""This backend in the places of the two that Django brings along for tests."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from lambda_tasks.backends import LambdaTasksBackend
from lambda_tasks.models import TaskRecord
from lambda_tasks.testing import capture_tasks

from .ways import TESTING, chosen, run_to_end


class DummyBackend(LambdaTasksBackend):
    """Runs nothing, and shows what was enqueued."""

    @property
    def results(self) -> list[Any]:
        """Read from the table anew; on a thread of its own for who asks on an event loop."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._read()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self._read_and_leave).result()

    def clear(self) -> None:
        """Forget them."""
        TaskRecord.objects.all().delete()

    def _read(self) -> list[Any]:
        ids = TaskRecord.objects.order_by("enqueued_at").values_list("id", flat=True)
        return [self.get_result(str(id)) for id in ids]

    def _read_and_leave(self) -> list[Any]:
        try:
            return self._read()
        finally:
            connections.close_all()


class ImmediateBackend(LambdaTasksBackend):
    """Returns each result when its task has ended: its message has gone the whole way."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        if chosen() != TESTING:
            result = super().enqueue(task, args, kwargs)
            run_to_end(result)
            return result
        with capture_tasks() as captured:
            result = super().enqueue(task, args, kwargs)
            captured.run(raise_failures=False)
        result.refresh()
        return result

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        if chosen() != TESTING:
            result = await super().aenqueue(task, args, kwargs)
            await sync_to_async(run_to_end)(result)
            return result
        with capture_tasks() as captured:
            result = await super().aenqueue(task, args, kwargs)
            await captured.arun(raise_failures=False)
        await result.arefresh()
        return result
