"""Schedules: how late their runs start, and what a tick of very many costs."""

import time
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.db import connection
from django.test import override_settings
from django.test.utils import CaptureQueriesContext

from benchmarks.contestants.database import migrate, postgres_version
from benchmarks.contestants.full_table import analyze, fill
from benchmarks.contestants.work.scheduled import do_nothing
from benchmarks.contestants.work.tasks import trivial
from lambda_tasks import runtime
from lambda_tasks.models import ScheduleState, TaskRecord
from lambda_tasks.records.clock import read_clock

__all__ = ["analyze", "clock", "fill", "lateness", "migrate", "postgres_version", "ticks"]

MINUTES_OF_A_DAY: Final = 24 * 60


def clock() -> str:
    """The database's."""
    return read_clock("default").isoformat()


def lateness(*, start: str, end: str) -> dict[str, float | None]:
    """Seconds that each run started after its due time, by that time; None for one that did not."""
    return {
        due.isoformat(): None if at is None else (at - due).total_seconds()
        for headers, at in TaskRecord.objects.filter(task_name=do_nothing.name)
        .order_by("run_after")
        .values_list("headers", "start_time")
        if start <= (due := _due(headers)).isoformat() <= end
    }


def _due(headers: Any) -> datetime:
    return datetime.fromisoformat(headers["lambda_tasks.scheduled_for"])


def ticks(*, schedules: int, times: int) -> dict[str, float]:
    """Milliseconds, CPU and statements of a tick, with so many schedules that are due once a day.

    The ticks are a minute apart, and the first one, which stores the schedules, does not count.
    """
    entries = {
        f"daily {number}": {
            "task": trivial.name,
            "cron": f"{number % 60} {number // 60 % 24} * * *",
            "kwargs": {"number": number},
        }
        for number in range(schedules)
    }
    ScheduleState.objects.all().delete()
    tick = async_to_sync(runtime.current().scheduler.tick)
    queues = {"default": {"database": True}}
    with override_settings(LAMBDA_TASKS_SCHEDULES=entries, LAMBDA_TASKS_QUEUES=queues):
        now = read_clock("default")
        tick(now)
        wall: list[float] = []
        cpu: list[float] = []
        enqueued = 0
        for _ in range(times):
            now += timedelta(minutes=1)
            began, began_cpu = time.perf_counter(), time.process_time()
            enqueued += tick(now).scheduled
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - began_cpu)
        with CaptureQueriesContext(connection) as queries:
            tick(now + timedelta(minutes=1))
    return {
        "ms": 1000 * median(wall),
        "cpu_ms": 1000 * median(cpu),
        "runs": enqueued / times,
        "statements": len(queries),
    }
