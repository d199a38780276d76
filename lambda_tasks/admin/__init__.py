"""The admin's pages: records, queues, schedules and workflows, and the dashboard beside them.

They show, and act only by actions that ask first.
"""

from .objects import RunsOfObject
from .queues import QueueStateAdmin
from .records import TaskRecordAdmin
from .schedules import ScheduleStateAdmin
from .workflows import WorkflowAdmin

__all__ = [
    "QueueStateAdmin",
    "RunsOfObject",
    "ScheduleStateAdmin",
    "TaskRecordAdmin",
    "WorkflowAdmin",
]
