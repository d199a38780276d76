"""The runs that are about an object, on that object's own page in a project's admin."""

from collections.abc import Sequence
from typing import Any, Final

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..records import listing
from ..records.filters import Filters
from ..records.tables import TaskRecord
from . import pages, shown

MAX_SHOWN: Final = 20
"""The most runs that an object's page lists."""

FIELD: Final = "task_runs"


class RunsOfObject(admin.ModelAdmin):  # type: ignore[type-arg] # not generic at run time in 5.2
    """A mixin for an admin: its objects' pages list the last runs about each object.

    A run is about an object if an argument, or a header, has its primary key. The newest 10,000
    records are searched, or with `runs_of_tasks` those of these tasks. Who may not see records sees
    nothing of them.
    """

    runs_by_argument: str | None = None
    """The name of the argument."""
    runs_by_header: str | None = None
    """The name of the header; if both are named, both must have it."""
    runs_of_tasks: Sequence[str] = ()
    """The dotted names of the tasks that are looked at; all of them if there are none."""

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """See ModelAdmin."""
        fields = super().get_readonly_fields(request, obj)
        return [*fields, FIELD] if self._shows_runs(request, obj) else fields

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """See ModelAdmin. Adds a part of its own for the runs."""
        others = [
            (title, {**options, "fields": [each for each in options["fields"] if each != FIELD]})
            for title, options in super().get_fieldsets(request, obj)
        ]
        if not self._shows_runs(request, obj):
            return others
        return [*others, (_("Tasks"), {"fields": [FIELD]})]

    @admin.display(description=_("Last runs"))
    def task_runs(self, obj: Any) -> SafeString | str:
        """Return the last runs about the object, each as a link."""
        runs = self.find_runs(obj)
        site = self.admin_site.name
        return shown.lines(
            shown.record_line(each, site, each.task_name) for each in runs
        ) or gettext("None.")

    def find_runs(self, obj: Any) -> Sequence[TaskRecord]:
        """Return the last runs about an object, the newest first."""
        filters: Filters = {"task": list(self.runs_of_tasks) or None}
        key = obj.pk if isinstance(obj.pk, int) else str(obj.pk)
        if self.runs_by_argument is not None:
            filters["arguments"] = {self.runs_by_argument: key}
        if self.runs_by_header is not None:
            filters["headers"] = {self.runs_by_header: key}
        return listing.newest(filters, limit=MAX_SHOWN, search_all=False).records

    def _shows_runs(self, request: HttpRequest, obj: Any) -> bool:
        is_asked_for = self.runs_by_argument is not None or self.runs_by_header is not None
        return obj is not None and is_asked_for and pages.may_view(request, "taskrecord")
