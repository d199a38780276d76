"""The overview, and the page of an error with what can be done to all its failures."""

from typing import Any, Final
from uuid import UUID

from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _

from ..core.figures import Range
from ..operations import figures
from ..records.database import all_records
from . import overview_page, pages
from .actions import AsksFirst

ON_ERRORS: Final = ("retry", "acknowledge")
"""The actions on all that is still broken by an error."""


class OverviewPages(AsksFirst):
    """The pages of an admin of records that show figures."""

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view
        return [
            path("overview/", view(self.overview_view), name="lambda_tasks_overview"),
            path("errors/<uuid:id>/", view(self.error_view), name="lambda_tasks_error"),
            *super().page_urls(),
        ]

    def overview_view(self, request: HttpRequest) -> HttpResponse:
        """Show how all of it is doing."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        site, with_payloads = self.admin_site.name, self.has_payload_permission(request)
        context = overview_page.context(request, site, with_payloads=with_payloads)
        return self.page(request, "overview", _("Overview"), context)

    def error_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        """Show one error; or ask about an action on all that is still broken by it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._ask_about_error(request, id)
        chosen = pages.range_of(request, Range.LAST_WEEK)
        group = figures.error(id, chosen)
        if group is None:
            raise Http404("There is no such error, or it was too long ago.")
        now = figures.overview(Range.LAST_HOUR).facts.now
        with_payloads = self.has_payload_permission(request)
        (row,) = overview_page.error_rows([group], now, with_payloads=with_payloads)
        context = {
            "error": row,
            "ranges": pages.ranges(request, chosen),
            "examples": all_records().filter(pk__in=group.examples).only(*EXAMPLE_COLUMNS),
            "below": "lambda_tasks/error_actions.html",
            "can_act": bool(group.still_broken) and self.has_replay_permission(request),
        }
        return self.page(request, "error", row["name"], context)

    def _ask_about_error(self, request: HttpRequest, id: UUID) -> HttpResponse:
        action = request.POST.get("action", "")
        if action not in ON_ERRORS:
            raise BadRequest("There is no such action.")
        if not self.has_replay_permission(request):
            raise PermissionDenied
        ids = figures.still_broken_ids(error=id, limit=self.max_chosen)
        answer: HttpResponse = self.steer(request, all_records().filter(pk__in=ids), action)
        return answer

    def has_payload_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may see arguments, results and tracebacks."""
        raise NotImplementedError

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may have tasks run again."""
        raise NotImplementedError

    def steer(self, request: HttpRequest, queryset: Any, action: str) -> Any:
        """Do to records what an action says, or ask first."""
        raise NotImplementedError


EXAMPLE_COLUMNS: Final = ("id", "status", "enqueued_at", "task_name", "queue", "end_time")
"""The columns of a record that the page of an error shows."""
