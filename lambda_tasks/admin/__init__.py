"""The admin's pages: records, schedules and workflows. They show, and act only by actions."""

from .records import TaskRecordAdmin
from .schedules import ScheduleStateAdmin
from .workflows import WorkflowAdmin

__all__ = ["ScheduleStateAdmin", "TaskRecordAdmin", "WorkflowAdmin"]
