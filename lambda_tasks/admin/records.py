"""The admin of records: what may be seen and asked for, the list's columns, and the actions."""

import json
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, DELETION
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import models, router
from django.db.models import F, QuerySet
from django.db.models.expressions import ExpressionWrapper
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..core.lifecycle import Status
from ..errors import LambdaTasksError
from ..records.steering import RETRYABLE
from ..records.tables import TaskRecord
from . import function_steps, lineage, record_page, run_picture, search, shown, steering, words
from .actions import FIRST_NAMED, N_FIRST
from .change_list import MAX_LISTED, BoundedPaginator, RecordChangeList
from .filters import (
    BackendFilter,
    Before,
    BrokenFilter,
    ErrorFilter,
    PriorityFilter,
    QueueFilter,
    ScheduleFilter,
    SinceFilter,
    StatusFilter,
    TaskFilter,
    WorkflowFilter,
)
from .function_pages import FunctionPages
from .overview import OverviewPages
from .pages import PicturePages, read_once
from .tasks import TaskPages

LOOKUPS: Final = frozenset(
    {
        *(
            each.parameter_name
            for each in (
                StatusFilter, BrokenFilter, QueueFilter, TaskFilter, ErrorFilter, SinceFilter,
                ScheduleFilter, WorkflowFilter, BackendFilter, PriorityFilter, Before,
            )
        ),
        "enqueued_at__gte",
        "enqueued_at__lt",
        "enqueued_at__isnull",
    }
)  # fmt: skip
"""The lookups of the page's own filters."""


@admin.register(TaskRecord)
class TaskRecordAdmin(OverviewPages, TaskPages, FunctionPages, PicturePages):
    """The admin of records. Each action, and a look at payloads, needs its own permission."""

    list_display = (
        "task", "arguments_in_list", "status_now", "enqueued_in_list", "duration_shown", "outcome",
    )  # fmt: skip
    list_filter = (
        StatusFilter, BrokenFilter, SinceFilter, QueueFilter, TaskFilter, ErrorFilter,
        ScheduleFilter, WorkflowFilter, BackendFilter, PriorityFilter, Before,
    )  # fmt: skip
    list_per_page = 50
    # MySQL reads the index in this order, and in no other.
    ordering = ("-enqueued_at", "id")
    sortable_by = ("enqueued_in_list", "duration_shown")
    search_fields = ("task_name",)
    search_help_text = _(
        "An id or its first eight digits, part of the name of a task or an error, part of an "
        "argument, or an argument with its value: order_id=4711."
    )
    show_facets = admin.ShowFacets.NEVER  # each is a scan of the table
    show_full_result_count = False
    paginator = BoundedPaginator
    max_chosen = MAX_LISTED
    named_by = ("id", "task_name", "status")
    actions = ("retry", "replay", "requeue", "acknowledge", "cancel", "delete_selected")

    # What may be seen

    def get_queryset(self, request: HttpRequest) -> QuerySet[TaskRecord]:
        """Return the records with their duration, so that the list can be ordered by it.

        They are those of the database that is written to: a replica may lag.
        """
        ran_for = ExpressionWrapper(
            F("end_time") - F("start_time"), output_field=models.DurationField()
        )
        queryset: QuerySet[TaskRecord] = super().get_queryset(request)
        return queryset.using(router.db_for_write(TaskRecord)).annotate(ran_for=ran_for)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[RecordChangeList]:
        """Return the list whose effort is bounded."""
        return RecordChangeList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[TaskRecord], search_term: str
    ) -> tuple[QuerySet[TaskRecord], bool]:
        """Search by id, or else by the task's name and, if they may be seen, the arguments."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if search.finds_id(self.get_queryset(request), term):
            return search.by_id(queryset, term), False
        in_arguments = self.has_payload_permission(request)
        return search.by_text(cast("Any", queryset), term, in_arguments=in_arguments), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Return whether a lookup is one of the page's own filters.

        With other lookups, such as `__startswith`, a reader could guess hidden values letter by
        letter.
        """
        return lookup in LOOKUPS

    def has_payload_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may see arguments, results and tracebacks."""
        return self.may(request, "view_payload")

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may have tasks run again."""
        return self.may(request, "replay")

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may run tasks with arguments of their choice."""
        return self.may(request, "run")

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may cancel tasks."""
        return self.may(request, "cancel")

    def has_purge_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may delete records."""
        return self.may(request, "delete")

    # The list

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns. Who may not see results and tracebacks sees the error's class."""
        if self.has_payload_permission(request):
            return self.list_display
        shown = [name for name in self.list_display if name not in ("arguments_in_list", "outcome")]
        return [*shown, "outcome_without_payloads"]

    @admin.display(description=_("Task"))
    def task(self, record: TaskRecord) -> SafeString:
        """Return the task's name, and below it the id, the queue and the priority."""
        return record_page.task_in_list(record)

    @admin.display(description=_("Arguments"))
    def arguments_in_list(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.arguments_in_list(record)

    @admin.display(description=_("Enqueued"), ordering="enqueued_at")
    def enqueued_in_list(self, record: TaskRecord) -> SafeString | None:
        """Return the time of the call, and below it the day."""
        return shown.time_and_day(record.enqueued_at)

    @admin.display(description=_("Duration"), ordering="ran_for")
    def duration_shown(self, record: TaskRecord) -> str | None:
        """Return the duration of the last attempt."""
        return shown.seconds(record.duration)

    @admin.display(description=_("Outcome"))
    def outcome(self, record: TaskRecord) -> SafeString:
        """Return the beginning of the result, or of the error."""
        error = shown.last_line(getattr(record, "traceback_end", None)) or record.exception_class
        if error:
            return shown.error(error)
        result = record_page.readable_result(record)
        return shown.outcome("" if result is None else json.dumps(result, ensure_ascii=False))

    @admin.display(description=_("Outcome"))
    def outcome_without_payloads(self, record: TaskRecord) -> SafeString:
        """Return the class of the error."""
        return shown.error(record.exception_class or "")

    # A record's page

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that the record has something for, and that the user may see."""
        return record_page.fieldsets(obj, with_payloads=self.has_payload_permission(request))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return all fields."""
        return [name for _, each in self.get_fieldsets(request, obj) for name in each["fields"]]

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Render a record's page, with a button for each action that it allows."""
        record = context["original"]
        status = Status(record.status)
        buttons = {
            "retry": self.has_replay_permission(request) and status in RETRYABLE,
            "replay": self.has_replay_permission(request) and status.is_finished,
            "requeue": self.has_replay_permission(request) and not status.is_finished,
            "acknowledge": self.has_replay_permission(request) and record.broken_since is not None,
            "cancel": self.has_cancel_permission(request) and not status.is_finished,
            "delete_selected": self.has_purge_permission(request) and status.is_finished,
        }
        context["object_actions"] = [steering.QUESTIONS[name] for name in buttons if buttons[name]]
        with_payloads = self.has_payload_permission(request)
        if status.is_finished and self.has_run_permission(request) and with_payloads:
            context["replay_url"] = self.url("lambda_tasks_replay", record.pk)
        return super().render_change_form(request, context, *args, **kwargs)

    def picture(self, request: HttpRequest, obj: TaskRecord) -> dict[str, Any]:
        """Return the picture of a run's life; of a durable function, with its steps."""
        viewer = function_steps.viewer(request, self.admin_site.name)
        return run_picture.context(obj, viewer)

    @admin.display(description=_("Task"))
    def task_shown(self, record: TaskRecord) -> SafeString:
        """Return the task's name, as a link to its page."""
        return shown.link(self.url("lambda_tasks_task", record.task_name), record.task_name)

    @admin.display(description=_("Queue"))
    def queue_shown(self, record: TaskRecord) -> str:
        """Return the queue's name."""
        return record.queue

    @admin.display(description=_("Priority"))
    def priority_shown(self, record: TaskRecord) -> int:
        """Return the priority."""
        return record.priority

    @admin.display(description=_("Group"))
    def group_key_shown(self, record: TaskRecord) -> str | None:
        """Return the key of its group, in which calls run in their order."""
        return record.group_key

    @admin.display(description=_("Backend"))
    def backend_shown(self, record: TaskRecord) -> str | None:
        """Return the backend of Django's tasks by which it was called."""
        return record.backend

    @admin.display(description=_("Status"))
    def status_now(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.status_now(record)

    @admin.display(description=_("Last error"))
    def last_error(self, record: TaskRecord) -> str | None:
        """See record_page."""
        return record_page.last_error(record)

    @admin.display(description=_("Last error"))
    def error_class(self, record: TaskRecord) -> str | None:
        """See record_page."""
        return record_page.error_class(record)

    @admin.display(description=_("Lineage"))
    def lineage(self, record: TaskRecord) -> SafeString | None:
        """See lineage."""
        return lineage.tree(record, self.admin_site.name)

    @admin.display(description=_("Workflow"))
    def workflow_shown(self, record: TaskRecord) -> SafeString | None:
        """Return a link to the workflow that it is a step of."""
        return shown.workflow_link(record.workflow_id, self.admin_site.name)

    @admin.display(description=_("Schedule"))
    def schedule_shown(self, record: TaskRecord) -> SafeString:
        """Return a link to the schedule whose run it is."""
        return shown.schedule_link(record_page.schedule(record) or "", self.admin_site.name)

    @admin.display(description=_("Waits for"))
    def waits_for_shown(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return shown.lines(read_once(record, record_page.hindrances))

    @admin.display(description=_("Headers"))
    def headers_shown(self, record: TaskRecord) -> SafeString:
        """Return the headers as indented JSON."""
        return shown.as_json(record.headers)

    @admin.display(description=_("Positional arguments"))
    def positional_arguments(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.positional_arguments(record)

    @admin.display(description=_("Arguments"))
    def arguments(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.arguments(record)

    @admin.display(description=_("Result"))
    def result_shown(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.result(record)

    @admin.display(description=_("Traceback"))
    def traceback_shown(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.traceback(record)

    @admin.display(description=_("Saved state"))
    def state_shown(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.state(record)

    @admin.display(description=_("Arguments and result"))
    def hidden_payloads(self, record: TaskRecord) -> str:
        """Return why they are not shown."""
        return gettext("Hidden: to see them takes a permission of its own.")

    @admin.display(description=_("Enqueued"))
    def enqueued(self, record: TaskRecord) -> str | None:
        """Return when it was called."""
        return shown.moment(record.enqueued_at)

    @admin.display(description=_("Sent"))
    def sent(self, record: TaskRecord) -> str | None:
        """Return when it was last sent to its queue."""
        return shown.moment(record.sent_at)

    @admin.display(description=_("Due"))
    def due(self, record: TaskRecord) -> SafeString | None:
        """Return when it is due, and how long that is away."""
        return shown.moment_and_age(record.run_after, datetime.now(UTC))

    @admin.display(description=_("Expires"))
    def expires(self, record: TaskRecord) -> SafeString | None:
        """Return by when it must have begun."""
        return shown.moment_and_age(record.expires_at, datetime.now(UTC))

    @admin.display(description=_("Started"))
    def started(self, record: TaskRecord) -> str | None:
        """Return when its last attempt started."""
        return shown.moment(record.start_time)

    @admin.display(description=_("Ended"))
    def ended(self, record: TaskRecord) -> str | None:
        """Return when it ended."""
        return shown.moment(record.end_time)

    @admin.display(description=_("Starts"))
    def starts(self, record: TaskRecord) -> int:
        """Return how often it was started: more than once if its worker died."""
        return record.n_attempts

    @admin.display(description=_("Retries before it"))
    def retries(self, record: TaskRecord) -> int:
        """Return how many failures of the task came before."""
        return record.n_retries

    @admin.display(description=_("Continuations before it"))
    def continues(self, record: TaskRecord) -> int:
        """Return how often the task has asked to go on in another run."""
        return record.n_continues

    @admin.display(description=_("Worker"))
    def worker(self, record: TaskRecord) -> SafeString:
        """See record_page."""
        return record_page.worker(record)

    @admin.display(description=_("Cut off by shutdowns"))
    def cut_off(self, record: TaskRecord) -> str:
        """Return how long attempts had run that the shutdown of their worker has interrupted."""
        return words.span(record.cut_off_s)

    @admin.display(description=_("Lease until"))
    def lease(self, record: TaskRecord) -> SafeString | None:
        """Return when another worker may take it over."""
        return shown.moment_and_age(record.lease_until, datetime.now(UTC))

    @admin.display(description=_("First refused"))
    def refused(self, record: TaskRecord) -> SafeString | None:
        """Return when a release first could not run it."""
        return shown.moment_and_age(record.refused_at, datetime.now(UTC))

    # Actions

    @admin.action(description=_("Retry selected tasks"), permissions=("replay",))
    def retry(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> Any:
        """Let FAILED and CANCELLED tasks start over under their own ids, once confirmed."""
        return self.steer(request, queryset, "retry")

    @admin.action(description=_("Replay selected tasks"), permissions=("replay",))
    def replay(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> Any:
        """Enqueue finished tasks as new invocations with the same arguments, once confirmed."""
        return self.steer(request, queryset, "replay")

    @admin.action(description=_("Send selected stuck tasks again"), permissions=("replay",))
    def requeue(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> Any:
        """Make what is stuck due at once, and send it again, once confirmed."""
        return self.steer(request, queryset, "requeue")

    @admin.action(description=_("Acknowledge selected failures"), permissions=("replay",))
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> Any:
        """Let failures no longer count as still broken, once confirmed."""
        return self.steer(request, queryset, "acknowledge")

    @admin.action(description=_("Cancel selected tasks"), permissions=("cancel",))
    def cancel(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> Any:
        """Cancel unfinished tasks, once confirmed."""
        return self.steer(request, queryset, "cancel")

    @admin.action(description=_("Delete selected task records"), permissions=("purge",))
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> Any:
        """Delete finished records, once confirmed. This replaces Django's action of that name."""
        return self.steer(request, queryset, "delete_selected")

    def steer(self, request: HttpRequest, queryset: QuerySet[TaskRecord], action: str) -> Any:
        """Do to the chosen records what an action says, or ask about those that allow it."""
        question = steering.QUESTIONS[action]
        records = self.chosen(request, queryset)
        is_asking, user = not self.is_confirmed(request), cast("Any", request.user)
        is_trial = not is_asking and self.is_trial(request)
        chosen = {each.pk: each for each in (records[:N_FIRST] if is_trial else records)}
        try:
            made = steering.ACTIONS[action](list(chosen), by=user.get_username(), dry_run=is_asking)
        except LambdaTasksError as error:
            self.message_user(request, str(error), level=messages.ERROR)
            return None
        done = [chosen[id] for id in made.done]
        refused = [(chosen[id], why) for id, why in made.skipped.items()]
        if is_asking:
            return self.ask(
                request, question, done, refused=refused, warnings=steering.warnings(action, done)
            )
        flag = DELETION if action == "delete_selected" else CHANGE
        self.note(request, steering.changes(action, done, made), flag=flag)
        self.report(request, question, len(done), refused)
        if is_trial:
            return self._show_trial(request, action, list(chosen), records[N_FIRST:])
        return None

    def _show_trial(
        self, request: HttpRequest, action: str, first: list[UUID], rest: list[TaskRecord]
    ) -> HttpResponse:
        """Show what becomes of the first ones, with a button for the rest."""
        address = self.url("lambda_tasks_trial")
        context = {
            "records": record_page.in_order(first),
            "refresh_url": f"{address}?{urlencode([('id', str(id)) for id in first])}",
            "rest": {
                "keys": json.dumps([str(each.pk) for each in rest]),
                "first_key": rest[0].pk if rest else "",
                "count": len(rest),
                "action": action,
                "url": self.url("lambda_tasks_taskrecord_changelist"),
            },
        }
        return self.page(request, "trial", steering.QUESTIONS[action].title, context)

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view
        return [
            path("trial/", view(self.trial_view), name="lambda_tasks_trial"),
            *super().page_urls(),
        ]

    def trial_view(self, request: HttpRequest) -> HttpResponse:
        """Show what has become of some records."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            ids = [UUID(text) for text in request.GET.getlist("id")[:FIRST_NAMED]]
        except ValueError as error:
            raise BadRequest("The address has no ids of records.") from error
        return self.page(request, "trial", _("Runs"), {"records": record_page.in_order(ids)})
