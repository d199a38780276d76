"""The admin of workflows: how far each is, and the actions cancel and retry failed."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from django.contrib import admin
from django.contrib.admin.filters import DateFieldListFilter
from django.db import router
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from ..core.graphs import WorkflowStatus
from ..operations import Changes, workflows
from ..records.tables import Workflow
from . import function_steps, shown, workflow_page
from .actions import AsksFirst, Question
from .change_list import MAX_LISTED, BoundedPaginator
from .pages import PicturePages, may_view, read_once

FIELDS: Final = (
    "id", "name_shown", "status_now", "progress", "called", "ended", "steps", "all_steps",
    "failed_steps",
)  # fmt: skip

QUESTIONS: Final = {
    "cancel": Question(
        action="cancel",
        title=_("Cancel workflows"),
        button=_("Cancel"),
        will=ngettext_lazy("%d workflow will be cancelled.", "%d workflows will be cancelled."),
        did=ngettext_lazy("%d workflow was cancelled.", "%d workflows were cancelled."),
        warnings=[_("Steps that have not begun never run. What runs can't commit.")],
        is_harmful=True,
    ),
    "retry": Question(
        action="retry",
        title=_("Retry failed steps"),
        button=_("Retry failed steps"),
        will=ngettext_lazy("%d workflow will go on.", "%d workflows will go on."),
        did=ngettext_lazy("%d workflow goes on.", "%d workflows go on."),
        warnings=[
            _("The steps start over under their own ids, with their attempts and retries at 0."),
            _("What has succeeded does not run again."),
        ],
    ),
}

ACTIONS: Final[dict[str, Callable[..., Changes]]] = {
    "cancel": workflows.cancel_workflows,
    "retry": workflows.retry_workflows,
}


class WorkflowStatusFilter(admin.SimpleListFilter):
    """The status of a workflow."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return all statuses."""
        return [(status.value, status.value) for status in WorkflowStatus]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the workflows of the chosen status."""
        return queryset.filter(status=self.value()) if self.value() else queryset


@admin.register(Workflow)
class WorkflowAdmin(AsksFirst, PicturePages):
    """The admin of workflows. Each action needs its own permission."""

    list_display = ("name_in_list", "status_now", "progress", "called_in_list", "ended")
    list_filter = (WorkflowStatusFilter, ("created_at", DateFieldListFilter))
    list_per_page = 50
    ordering = ("-created_at", "id")
    sortable_by = ("called_in_list",)
    search_fields = ("name",)
    search_help_text = _("An id, or part of a name.")
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    paginator = BoundedPaginator
    max_chosen = MAX_LISTED
    actions = ("cancel", "retry")
    fields = FIELDS
    readonly_fields = FIELDS

    # What may be seen and done

    def get_queryset(self, request: HttpRequest) -> QuerySet[Workflow]:
        """Return the workflows where they are written: a replica may lag."""
        queryset: QuerySet[Workflow] = super().get_queryset(request)
        return queryset.using(router.db_for_write(Workflow))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Workflow], search_term: str
    ) -> tuple[QuerySet[Workflow], bool]:
        """Search by id, or else by the name."""
        id = workflow_page.as_id(search_term)
        if id is not None:
            return queryset.filter(pk=id), False
        return super().get_search_results(request, queryset, search_term)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may cancel workflows."""
        return self.may(request, "cancel")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may have failed steps run again."""
        return self.may(request, "retry")

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Render a workflow's page, with a button for each action that it allows."""
        status = context["original"].status
        allowed = {
            "cancel": self.has_cancel_permission(request) and status == WorkflowStatus.RUNNING,
            "retry": self.has_retry_permission(request) and status == WorkflowStatus.FAILED,
        }
        context["object_actions"] = [QUESTIONS[name] for name in allowed if allowed[name]]
        return super().render_change_form(request, context, *args, **kwargs)

    def picture(self, request: HttpRequest, obj: Workflow) -> dict[str, Any]:
        """Return the graph, with the steps of the durable function that waits for it."""
        site = self.admin_site.name
        shows_function = obj.call_id is not None and may_view(request, "taskrecord")
        viewer = function_steps.viewer(request, site) if shows_function else None
        return workflow_page.picture(obj, site, viewer)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that the workflow has something for."""
        empty = set() if obj is None or obj.ended_at is not None else {"ended"}
        if obj is not None and not read_once(obj, workflow_page.read_failed):
            empty.add("failed_steps")
        return [name for name in FIELDS if name not in empty]

    # Columns and fields

    @admin.display(description=_("Workflow"))
    def name_in_list(self, workflow: Workflow) -> SafeString:
        """Return the name, and below it the id."""
        return shown.lines([workflow.name, shown.short_id(workflow.pk)])

    @admin.display(description=_("Name"))
    def name_shown(self, workflow: Workflow) -> str:
        """Return the name."""
        return workflow.name

    @admin.display(description=_("Status"))
    def status_now(self, workflow: Workflow) -> SafeString:
        """Return the status."""
        return shown.badge(workflow.status, workflow.status)

    @admin.display(description=_("Steps"))
    def progress(self, workflow: Workflow) -> SafeString | None:
        """See workflow_page."""
        return workflow_page.progress(workflow)

    @admin.display(description=_("Called"), ordering="created_at")
    def called_in_list(self, workflow: Workflow) -> SafeString | None:
        """Return the time of the call, and below it the day."""
        return shown.time_and_day(workflow.created_at)

    @admin.display(description=_("Called"))
    def called(self, workflow: Workflow) -> SafeString | None:
        """Return the time of the call, and how long ago that is."""
        return shown.moment_and_age(workflow.created_at, datetime.now(UTC))

    @admin.display(description=_("Ended"))
    def ended(self, workflow: Workflow) -> str | None:
        """Return when it ended."""
        return shown.moment(workflow.ended_at)

    @admin.display(description=_("All steps"))
    def all_steps(self, workflow: Workflow) -> SafeString:
        """Return a link to the list of its steps."""
        return workflow_page.link_to_steps(workflow, self.admin_site.name)

    @admin.display(description=_("Steps by task"))
    def steps(self, workflow: Workflow) -> SafeString:
        """See workflow_page."""
        return workflow_page.steps(workflow)

    @admin.display(description=_("Failed steps"))
    def failed_steps(self, workflow: Workflow) -> SafeString:
        """See workflow_page."""
        return workflow_page.failed_steps(workflow, self.admin_site.name)

    # Actions

    @admin.action(description=_("Cancel selected workflows"), permissions=("cancel",))
    def cancel(self, request: HttpRequest, queryset: QuerySet[Workflow]) -> Any:
        """Cancel workflows that have not ended, once confirmed."""
        return self._do(request, queryset, "cancel")

    @admin.action(description=_("Retry failed steps of selected workflows"), permissions=("retry",))
    def retry(self, request: HttpRequest, queryset: QuerySet[Workflow]) -> Any:
        """Let the failed steps of FAILED workflows run again, once confirmed."""
        return self._do(request, queryset, "retry")

    def _do(self, request: HttpRequest, queryset: QuerySet[Workflow], action: str) -> Any:
        chosen = self.chosen(request, queryset)
        by_id = {each.pk: each for each in chosen}
        is_confirmed = self.is_confirmed(request)
        made = ACTIONS[action](ids=list(by_id), dry_run=not is_confirmed)
        refused = [(by_id[id], why) for id, why in made.skipped.items() if id in by_id]
        done = [by_id[id] for id in made.done]
        if done and not is_confirmed:
            return self.ask(request, QUESTIONS[action], done, refused=refused)
        if done:
            said = {"cancel": gettext("Cancelled."), "retry": gettext("Failed steps retried.")}
            self.note(request, [(each, said[action]) for each in done])
        self.report(request, QUESTIONS[action], len(done), refused)
        return None
