"""The list of records, in an effort that does not grow with their number.

Nothing counts or sorts the whole table. A page needs no more than its records in the order of an
index. What no index answers (a status, a text, another order) is looked for among LOOKED_AT
records; a link leads to the older ones. So does one from the last page.
"""

from typing import Any, Final

from django.contrib.admin.views.main import ORDER_VAR, ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet, TextField
from django.db.models.functions import Cast, Left, Right
from django.http import HttpRequest
from django.utils.functional import cached_property

from ..core.lifecycle import UNFINISHED, Status
from ..records.tables import RunProgress, TaskRecord
from . import search
from .filters import (
    BEFORE,
    BrokenFilter,
    ErrorFilter,
    Position,
    SinceFilter,
    StatusFilter,
    TaskFilter,
    WorkflowFilter,
    position,
)

MAX_LISTED: Final = 1000
"""The most records on the pages of one list, and the most that one action takes."""

LOOKED_AT: Final = 20_000
"""The records among which the list looks for what no index finds."""

ERROR_CHARS: Final = 500
"""The characters at the end of a traceback in which the list looks for its last line."""

ARGUMENT_CHARS: Final = 400
"""The characters at the beginning of a call's arguments of which the list shows some."""

INDEXED: Final = {
    *(
        each.parameter_name
        for each in (TaskFilter, BrokenFilter, ErrorFilter, WorkflowFilter, SinceFilter)
    ),
    BEFORE, "enqueued_at__gte", "enqueued_at__lt",
}  # fmt: skip
"""The parameters that an index answers."""

DEFERRED: Final = ("args", "kwargs", "secrets", "headers", "traceback")
"""The columns that the list does not show, and that may be large."""


class BoundedPaginator(Paginator):  # type: ignore[type-arg] # not generic at run time
    """The pages of a list that counts no further than MAX_LISTED."""

    @cached_property
    def n_found(self) -> int:
        """Count the records, up to one more than MAX_LISTED."""
        records: Any = self.object_list
        return int(records.order_by()[: MAX_LISTED + 1].count())

    @cached_property
    def count(self) -> int:
        """Count the records on these pages."""
        return min(self.n_found, MAX_LISTED)

    @property
    def is_cut_off(self) -> bool:
        """Whether there are more records than these pages have."""
        return self.n_found > MAX_LISTED


class RecordChangeList(ChangeList):
    """The list's query, and where it goes on."""

    result_list: Any
    oldest: Position | None = None
    """The end of what was looked at; None where all was."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """Return the records of the list, newest first."""
        records = super().get_queryset(request, *args, **kwargs)
        if _chooses_by_id(request) or not self._needs_bound():
            return records
        self.oldest = self._find_oldest()
        if self.oldest is not None:
            records = records.filter(enqueued_at__gte=self.oldest.enqueued_at)
        return records

    def get_results(self, request: HttpRequest) -> None:
        """Read the page's records, and the progress of those that run."""
        super().get_results(request)
        if not self.result_count:
            self.result_list = []
            return
        listed: Any = self.result_list.defer(*DEFERRED)
        listed = listed.annotate(traceback_end=Right("traceback", ERROR_CHARS))
        if "arguments_in_list" in self.list_display:
            written = Left(Cast("kwargs", TextField()), ARGUMENT_CHARS)
            listed = listed.annotate(arguments_start=written)
        is_one_page = not self.multi_page or (self.show_all and self.can_show_all)
        self.result_list = list(listed[:MAX_LISTED] if is_one_page else listed)
        running = [each.pk for each in self.result_list if each.status == Status.RUNNING]
        shown = RunProgress.objects.using(self.root_queryset.db).filter(record_id__in=running)
        progress = dict(shown.values_list("record_id", "progress")) if running else {}
        for record in self.result_list:
            record.progress = progress.get(record.pk)

    @property
    def is_cut_off(self) -> bool:
        """Whether more records were found than the pages have."""
        paginator: Any = self.paginator
        return bool(paginator.is_cut_off)

    @property
    def looked_at(self) -> int:
        """The number of records that were looked at, where not all were."""
        return LOOKED_AT

    def older_url(self) -> str | None:
        """Return the address of the older records from the last page; None on other pages."""
        if self.page_num < self.paginator.num_pages:
            return None
        end = self.oldest
        if self.is_cut_off and ORDER_VAR not in self.params:
            last = self.result_list[-1]
            end = Position(last.enqueued_at, last.pk) if last.enqueued_at else None
        return self.get_query_string({BEFORE: str(end)}) if end else None

    def _needs_bound(self) -> bool:
        """Return whether the list asks for what no index answers."""
        if self.query:
            return not search.finds_id(self.root_queryset, self.query)
        asked = self.get_filters_params()
        if asked.get(str(StatusFilter.parameter_name), [""])[0] in UNFINISHED:
            return False
        return bool(asked.keys() - INDEXED) or ORDER_VAR in self.params

    def _find_oldest(self) -> Position | None:
        """Return the time of the last record to look at; None where there are fewer."""
        records = TaskRecord.objects.using(self.root_queryset.db).filter(enqueued_at__isnull=False)
        if before := self.params.get(BEFORE):
            records = records.filter(enqueued_at__lte=position(before).enqueued_at)
        times = records.order_by("-enqueued_at").values_list("enqueued_at", flat=True)
        last = times[LOOKED_AT : LOOKED_AT + 1].first()
        return Position(last) if last else None


def _chooses_by_id(request: HttpRequest) -> bool:
    """Return whether a form names each of the records that an action takes."""
    return request.method == "POST" and request.POST.get("select_across") != "1"
