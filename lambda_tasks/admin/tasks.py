"""The pages of tasks: all that are declared, one with a form to run it, and a replay's form."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.admin.models import ADDITION, CHANGE
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import operations, registry
from ..core.figures import Range
from ..core.lifecycle import Status
from ..errors import LambdaTasksError, UnknownTask
from ..ports import Task
from ..records.mapping import DROPPED
from ..records.tables import TaskRecord
from . import pages, task_pages
from .actions import AsksFirst
from .task_form import TaskForm


class TaskPages(AsksFirst):
    """The pages of an admin of records that show tasks, and call them."""

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view
        return [
            path("tasks/", view(self.tasks_view), name="lambda_tasks_tasks"),
            path("tasks/<str:name>/", view(self.task_view), name="lambda_tasks_task"),
            path("<uuid:id>/replay/", view(self.replay_view), name="lambda_tasks_replay"),
            *super().page_urls(),
        ]

    def tasks_view(self, request: HttpRequest) -> HttpResponse:
        """Show every declared task."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        chosen = pages.range_of(request, Range.LAST_DAY)
        context = {
            **task_pages.all_tasks(chosen),
            "ranges": pages.ranges(request, chosen),
            "may_view_schedules": pages.may_view(request, "schedulestate"),
        }
        return self.page(request, "tasks", _("Tasks"), context)

    def task_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show one task; or run it, with the arguments of the form."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        task = _find(name)
        may_run = task is not None and self.has_run_permission(request)
        form = TaskForm(task, data=request.POST or None) if task is not None and may_run else None
        if request.method == "POST":
            if task is None or form is None:
                raise PermissionDenied
            if form.is_valid() and (answer := self._run(request, task, form)):
                return answer
        with_payloads = self.has_payload_permission(request)
        chosen = pages.range_of(request, Range.LAST_DAY)
        story = task_pages.story(name, task, chosen, with_payloads=with_payloads)
        context = {
            **story,
            "ranges": pages.ranges(request, chosen),
            "may_view_schedules": pages.may_view(request, "schedulestate"),
            "below": "lambda_tasks/task_form.html",
            "form": form,
            "button": _("Run this task now"),
            "cancel_url": self.url("lambda_tasks_tasks"),
        }
        return self.page(request, "task", name, context)

    def replay_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        """Show the form of a replay with other arguments; or replay."""
        record: Any = self.get_object(request, str(id))
        if not self.has_view_permission(request, record):
            raise PermissionDenied
        if not (self.has_run_permission(request) and self.has_payload_permission(request)):
            raise PermissionDenied
        if record is None or not Status(record.status).is_finished:
            raise Http404("There is no finished record of this id.")
        task = _find(record.task_name, record.backend)
        address = self.url("lambda_tasks_taskrecord_change", id)
        if task is None or record.kwargs == DROPPED:
            told = gettext("It can't be replayed: its task or its arguments are gone.")
            self.message_user(request, told, level=messages.ERROR)
            return HttpResponseRedirect(address)
        form = TaskForm(
            task, data=request.POST or None, arguments=record.kwargs, positional=record.args or (),
        )  # fmt: skip
        if form.is_valid() and (answer := self._replay(request, record, form)):
            return answer
        context = {
            "record": record,
            "form": form,
            "button": _("Replay with these arguments"),
            "cancel_url": address,
            "below": "lambda_tasks/task_form.html",
        }
        title = _("Replay with other arguments")
        return self.page(request, "replay", title, context, refreshes=False)

    def _run(self, request: HttpRequest, task: Task, form: TaskForm) -> HttpResponse | None:
        """Enqueue a call, and go to its record; show why it can't be enqueued."""
        try:
            invocation = operations.enqueue(task.name, form.changed_arguments())
        except (LambdaTasksError, ImproperlyConfigured, TypeError, ValueError) as error:
            form.add_error(None, str(error))
            return None
        record = TaskRecord(id=invocation.id, task_name=task.name)
        self.note(request, [(record, "Enqueued.")], flag=ADDITION)
        told = gettext("%s was enqueued.") % task.name
        self.message_user(request, told, level=messages.SUCCESS)
        return HttpResponseRedirect(self.url("lambda_tasks_taskrecord_change", invocation.id))

    def _replay(
        self, request: HttpRequest, record: TaskRecord, form: TaskForm
    ) -> HttpResponse | None:
        """Enqueue a record's call with other arguments, and go to the new record."""
        change: Mapping[str, Any] = form.changed_arguments()
        try:
            made = operations.replay(ids=[record.pk], change=change, again=True)
        except (LambdaTasksError, TypeError, ValueError) as error:
            form.add_error(None, str(error))
            return None
        if record.pk not in made.new:
            form.add_error(None, made.skipped.get(record.pk, ""))
            return None
        new = made.new[record.pk]
        names = ", ".join(sorted(change)) or "none"
        self.note(
            request, [(record, f"Replayed as {new}. Changed arguments: {names}.")], flag=CHANGE
        )
        self.message_user(request, gettext("It was replayed."), level=messages.SUCCESS)
        return HttpResponseRedirect(self.url("lambda_tasks_taskrecord_change", new))

    def has_payload_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may see arguments, results and tracebacks."""
        raise NotImplementedError

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may run tasks with arguments of their choice."""
        raise NotImplementedError


def _find(name: str, backend: str | None = None) -> Task | None:
    """Return the task of a name; None for an unknown one, or one whose module can't be imported."""
    try:
        return registry.resolve(name, backend)
    except (UnknownTask, ImproperlyConfigured):
        return None
    except (Exception, SystemExit):
        return None
