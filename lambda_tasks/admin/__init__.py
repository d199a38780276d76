"""The admin's pages: the records, and the schedules. They show, and act only by actions."""

from .records import TaskRecordAdmin
from .schedules import ScheduleStateAdmin

__all__ = ["ScheduleStateAdmin", "TaskRecordAdmin"]
