"""The filters of the list. None of them asks the table which values there are.

Django's own filter of a text column selects its distinct values, which reads the whole table.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db import connections
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.dateparse import parse_datetime
from django.utils.timezone import is_aware
from django.utils.translation import gettext_lazy as _

from .. import conf, registry
from ..context import SCHEDULE_HEADER
from ..core.lifecycle import UNFINISHED
from ..declared_schedules import declared
from ..records.counts import FOR_EVER
from ..records.database import record_alias, statements
from ..records.tables import TaskError, TaskRecord, TaskStatus
from .shown import ID_DIGITS, moment

BEFORE: Final = "before"
"""The parameter that says from which record on the list goes back."""


N_ERRORS: Final = 10
"""The errors that can be chosen: those that were seen last."""


class Position(NamedTuple):
    """A record's place in the list, or the end of a time span if there is no id."""

    enqueued_at: datetime
    id: UUID | None = None

    def __str__(self) -> str:
        at = self.enqueued_at.isoformat()
        return at if self.id is None else f"{at}~{self.id}"

    def after(self, records: QuerySet[TaskRecord]) -> QuerySet[TaskRecord]:
        """Return the records that the list has after this position: the older ones."""
        if self.id is None:
            return records.filter(enqueued_at__lt=self.enqueued_at)
        not_yet = Q(enqueued_at=self.enqueued_at, id__lte=self.id)
        return records.filter(enqueued_at__lte=self.enqueued_at).exclude(not_yet)


def position(text: str) -> Position:
    """Return the position that a page's address names. Raises ValueError for another text."""
    at, _, id = text.partition("~")
    enqueued_at = parse_datetime(at)
    if enqueued_at is None or not is_aware(enqueued_at):
        raise ValueError(f"{at!r} is no time.")
    return Position(enqueued_at, UUID(id) if id else None)


class Before(admin.SimpleListFilter):
    """The page of older records, by the place where the newer page ended."""

    title = _("page")
    parameter_name = BEFORE

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        """Return the place itself; nothing on the first page, which hides the filter."""
        if not (value := self.value()):
            return []
        try:
            shown = moment(position(value).enqueued_at)
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error
        return [(value, _("before %s") % shown)]

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Return the newest records, and those of this page."""
        first, *others = super().choices(changelist)
        yield {**first, "display": _("Newest")}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the records that come after the place."""
        return position(self.value() or "").after(queryset)


class BrokenFilter(admin.SimpleListFilter):
    """Failures that nothing has put right: no later success, and not acknowledged."""

    title = _("still broken")
    parameter_name = "broken"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return the one choice beside all."""
        return [("yes", _("still broken"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the records that are still broken."""
        return queryset.filter(broken_since__isnull=False) if self.value() == "yes" else queryset


class SinceFilter(admin.SimpleListFilter):
    """The records that were called in the last hours or days."""

    title = _("time")
    parameter_name = "since"
    spans: Final = {
        "1h": (timedelta(hours=1), _("last hour")),
        "24h": (timedelta(hours=24), _("last 24 hours")),
        "7d": (timedelta(days=7), _("last 7 days")),
        "30d": (timedelta(days=30), _("last 30 days")),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return the spans."""
        return [(name, title) for name, (_, title) in self.spans.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the records of the chosen span."""
        chosen = self.value()
        if chosen is None:
            return queryset
        if chosen not in self.spans:
            raise IncorrectLookupParameters(f"{chosen!r} is no span of time.")
        span, _ = self.spans[chosen]
        return queryset.filter(enqueued_at__gte=datetime.now(UTC) - span)


class IdFilter(admin.SimpleListFilter):
    """A filter by the id of something else, to which only links lead."""

    column: str

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        """Return what was chosen; nothing otherwise, which hides the filter."""
        if not (value := self.value()):
            return []
        try:
            return [(value, self.name_of(UUID(value)))]
        except ValueError as error:
            raise IncorrectLookupParameters(error) from error

    def name_of(self, id: UUID) -> str:
        """Return how people know it."""
        return str(id)[:ID_DIGITS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the records that have this id."""
        chosen = self.value()
        return queryset.filter(**{self.column: UUID(chosen)}) if chosen else queryset


class ErrorFilter(IdFilter):
    """The runs that have failed with one error: one of the last ones, or that of a link."""

    title = _("error")
    parameter_name = "error"
    column = "error_id"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, Any]]:
        """Return the errors that were seen last, and the one that is chosen."""
        errors = TaskError.objects.using(record_alias()).order_by("-last_seen")[:N_ERRORS]
        last = {str(each.pk): _place_of(each) for each in errors}
        chosen = dict(super().lookups(request, model_admin))
        return list((chosen | last).items())

    def name_of(self, id: UUID) -> str:
        """Return the class of the error; its text may be hidden."""
        found = TaskError.objects.using(record_alias()).filter(pk=id).first()
        return _place_of(found) if found else super().name_of(id)


def _place_of(error: TaskError) -> str:
    """Return the class of an error, and where it was raised."""
    name = error.exception_class.rpartition(".")[2]
    return f"{name} ({error.raised_in})" if error.raised_in else name


class WorkflowFilter(IdFilter):
    """The steps of one workflow."""

    title = _("workflow")
    parameter_name = "workflow"
    column = "workflow_id"


class KnownValues(admin.SimpleListFilter):
    """A filter by the values of one column that the project itself knows."""

    column: str

    def known(self) -> Iterable[str]:
        """Return the values that can be chosen."""
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the known values, and the one that is chosen."""
        chosen = self.value()
        found = {*self.known(), *([chosen] if chosen else [])}
        return [(each, each) for each in sorted(found)] if len(found) > 1 or chosen else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the records with the chosen value."""
        chosen = self.value()
        if chosen and "\0" in chosen:
            raise IncorrectLookupParameters(f"{chosen!r} is no {self.title}.")
        return queryset.filter(**{self.column: chosen}) if chosen else queryset


class StatusFilter(KnownValues):
    """The statuses. Unfinished records have an index, the others have none."""

    title = _("status")
    parameter_name = "status__exact"
    column = "status"

    def known(self) -> Iterable[str]:
        """Return all statuses."""
        return TaskStatus.values

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the statuses in the order of a record's life."""
        return [(each, each) for each in TaskStatus.values]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the records of the chosen status."""
        records = super().queryset(request, queryset)
        return _by_index(records) if self.value() in UNFINISHED else records


def _by_index(unfinished: QuerySet[Any]) -> QuerySet[Any]:
    """Return unfinished records as the index of `look_at` finds them.

    Without partial indexes, it finds them by queue and priority only.
    """
    records = unfinished.filter(look_at__isnull=False)
    if connections[records.db].vendor != "mysql":
        return records
    levels = (Q(queue=queue, priority=each) for queue, each in statements().levels(FOR_EVER))
    return records.filter(reduce(or_, levels, Q(pk__in=[])))


class QueueFilter(KnownValues):
    """The queues of the settings."""

    title = _("queue")
    parameter_name = "queue__exact"
    column = "queue"

    def known(self) -> Iterable[str]:
        """Return the names of the queues."""
        return conf.current().queues


class TaskFilter(KnownValues):
    """The tasks that the code declares."""

    title = _("task")
    parameter_name = "task_name__exact"
    column = "task_name"

    def known(self) -> Iterable[str]:
        """Return the names of the tasks. A module that can't be imported has none."""
        registry.import_errors()
        return registry.names()


class ScheduleFilter(KnownValues):
    """The schedules that the code declares. A retry has the header of its call."""

    title = _("schedule")
    parameter_name = "schedule"
    column = f"headers__{SCHEDULE_HEADER}"

    def known(self) -> Iterable[str]:
        """Return the names of the schedules."""
        return declared()


class BackendFilter(KnownValues):
    """The backends of TASKS through which a task was called."""

    title = _("backend")
    parameter_name = "backend__exact"
    column = "backend"

    def known(self) -> Iterable[str]:
        """Return the names of the backends."""
        return getattr(settings, "TASKS", {})


class PriorityFilter(admin.SimpleListFilter):
    """Whether a record goes before or after those without a priority."""

    title = _("priority")
    parameter_name = "priority"
    conditions: Final = {"high": Q(priority__gt=0), "none": Q(priority=0), "low": Q(priority__lt=0)}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return the three kinds."""
        return [("high", _("above 0")), ("none", "0"), ("low", _("below 0"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the records of the chosen kind."""
        chosen = self.value()
        if chosen is None:
            return queryset
        if chosen not in self.conditions:
            raise IncorrectLookupParameters(f"{chosen!r} is no priority.")
        return queryset.filter(self.conditions[chosen])
