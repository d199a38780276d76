"""The admin of schedules: how each stands, and the actions pause, resume and run now."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import scheduling
from ..declared_schedules import declared
from ..errors import LambdaTasksError
from ..records.tables import ScheduleState
from . import schedule_page, shown
from .actions import FIRST_NAMED, AsksFirst, Question

MAX_CHOSEN: Final = 100
"""The most schedules that one action takes: each is a statement or two."""

N_UNSEEN: Final = 5
"""The most schedules that the list names of those that no tick has seen."""

FIELDS: Final = (
    "name_shown", "task_shown", "when", "on_or_off", "coming", "last_runs", "all_runs", "policy",
)  # fmt: skip

QUESTIONS: Final = {
    "pause": Question(
        action="pause",
        title=_("Pause schedules"),
        button=_("Pause"),
        will=ngettext_lazy("%d schedule will be paused.", "%d schedules will be paused."),
        did=ngettext_lazy("%d schedule was paused.", "%d schedules were paused."),
        warnings=[
            _("What was enqueued ahead and has not begun is cancelled. What runs goes on."),
            _("What is due until it is resumed does not run later either."),
        ],
        asks_why=True,
    ),
    "resume": Question(
        action="resume",
        title=_("Resume schedules"),
        button=_("Resume"),
        will=ngettext_lazy("%d schedule will be resumed.", "%d schedules will be resumed."),
        did=ngettext_lazy("%d schedule was resumed.", "%d schedules were resumed."),
        warnings=[_("What was due meanwhile does not run.")],
        asks_why=True,
    ),
    "run_now": Question(
        action="run_now",
        title=_("Run schedules now"),
        button=_("Run now"),
        will=ngettext_lazy("%d schedule will run now.", "%d schedules will run now."),
        did=ngettext_lazy("%d run was enqueued.", "%d runs were enqueued."),
        warnings=[_("Each runs once more than its rule says, also if it is off.")],
    ),
}


BACKFILL: Final = Question(
    action="backfill",
    title=_("Run past times"),
    button=_("Run them"),
    will=ngettext_lazy("%d run will be enqueued.", "%d runs will be enqueued."),
    did=ngettext_lazy("%d run was enqueued.", "%d runs were enqueued."),
)


class BackfillForm(forms.Form):
    """The span of time whose due times are to run."""

    start = forms.DateTimeField(label=_("From"), help_text=_("For example 2026-11-27 06:00."))
    end = forms.DateTimeField(label=_("To"))


class StateFilter(admin.SimpleListFilter):
    """Whether a schedule is on."""

    title = _("state")
    parameter_name = "state"
    states: Final = {"on": True, "off": False}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return both states."""
        return [("on", _("on")), ("off", _("off"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the schedules that are in the chosen state."""
        chosen = self.value()
        return (
            queryset.filter(is_enabled=self.states[chosen]) if chosen in self.states else queryset
        )


class ScheduleChangeList(ChangeList):
    """The list of schedules, with what is known of those on the page."""

    def get_results(self, request: HttpRequest) -> None:
        """Read the page's schedules, and their last runs in one query."""
        super().get_results(request)
        self.result_list: Any = list(self.result_list)
        known = schedule_page.look_up(self.result_list)
        for state in self.result_list:
            state.known = known[state.name]


@admin.register(ScheduleState)
class ScheduleStateAdmin(AsksFirst):
    """The admin of schedules. What they are is in the code; here they are switched and run."""

    list_display = ("name_in_list", "when", "on_or_off", "last_and_next")
    list_filter = (StateFilter,)
    list_per_page = 50
    ordering = ("name",)
    sortable_by = ("name_in_list",)
    search_fields = ("name", "task_name")
    search_help_text = _("Part of a schedule's or a task's name.")
    show_facets = admin.ShowFacets.NEVER
    show_full_result_count = False
    max_chosen = MAX_CHOSEN
    actions = ("pause", "resume", "run_now")
    fields = FIELDS
    readonly_fields = FIELDS

    # What may be seen and done

    def get_queryset(self, request: HttpRequest) -> QuerySet[ScheduleState]:
        """Return the schedules where they are written: a replica may lag."""
        queryset: QuerySet[ScheduleState] = super().get_queryset(request)
        return queryset.using(router.db_for_write(ScheduleState))

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Return a schedule with what is known of it."""
        state: Any = super().get_object(request, *args, **kwargs)
        if state is not None:
            state.known = schedule_page.look_up([state])[state.name]
        return state

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ScheduleChangeList]:
        """Return the list that knows their last runs."""
        return ScheduleChangeList

    def has_switch_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may pause and resume schedules."""
        return self.may(request, "switch")

    def has_run_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may run schedules now."""
        return self.may(request, "run")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, and name the schedules that have no row yet."""
        if request.method == "GET" and self.has_view_permission(request):
            self._warn_of_unseen(request)
        return super().changelist_view(request, extra_context)

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Render a schedule's page, with a button for each action that it allows."""
        state = context["original"]
        is_declared, may_switch = state.known.declared, self.has_switch_permission(request)
        allowed = {
            "pause": may_switch and state.is_enabled,
            "resume": may_switch and not state.is_enabled,
            "run_now": self.has_run_permission(request),
        }
        context["object_actions"] = [
            QUESTIONS[name] for name, is_allowed in allowed.items() if is_allowed and is_declared
        ]
        if is_declared and self.has_run_permission(request):
            url = self.url("lambda_tasks_backfill", quote(state.name))
            context["object_links"] = [{"title": _("Run past times"), "url": url}]
        return super().render_change_form(request, context, *args, **kwargs)

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view(self.backfill_view)
        name = "lambda_tasks_backfill"
        return [path("<path:object_id>/backfill/", view, name=name), *super().page_urls()]

    def backfill_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for a span of time, show which due times in it did not run, and run them."""
        state = self.get_object(request, object_id)
        if state is None:
            raise Http404("There is no such schedule.")
        if not (self.has_view_permission(request) and self.has_run_permission(request)):
            raise PermissionDenied
        form = BackfillForm(request.POST or None)
        due: list[datetime] | None = None
        span = ""
        if form.is_valid():
            start, end = form.cleaned_data["start"], form.cleaned_data["end"]
            span = f"{start.isoformat()} {end.isoformat()}"
            # What runs is what was shown: a span that was changed since is shown first.
            is_confirmed = self.is_confirmed(request) and request.POST.get("shown") == span
            try:
                due = scheduling.backfill_schedule(state.name, start, end, dry_run=not is_confirmed)
            except (LambdaTasksError, TypeError, ValueError) as error:
                form.add_error(None, str(error))
            else:
                if is_confirmed:
                    self.note(request, [(state, f"Backfilled: {len(due)} runs.")])
                    self.report(request, BACKFILL, len(due), ())
                    return HttpResponseRedirect(
                        self.url("lambda_tasks_schedulestate_change", quote(state.name))
                    )
        context = {
            "form": form,
            "schedule": state,
            "span": span,
            "due": None if due is None else due[:FIRST_NAMED],
            "n_due": len(due or ()),
            "n_more": max(len(due or ()) - FIRST_NAMED, 0),
            "cancel_url": self.url("lambda_tasks_schedulestate_change", quote(state.name)),
        }
        return self.page(request, "backfill", _("Run past times"), context, refreshes=False)

    # Columns and fields

    @admin.display(description=_("Schedule"), ordering="name")
    def name_in_list(self, state: Any) -> SafeString:
        """Return the name, and the task where it has another."""
        task = (
            "" if state.task_name == state.name else shown.quiet(shown.breakable(state.task_name))
        )
        return shown.lines([shown.dotted(state.name), task])

    @admin.display(description=_("Name"))
    def name_shown(self, state: Any) -> str:
        """Return the name."""
        return str(state.name)

    @admin.display(description=_("Task"))
    def task_shown(self, state: Any) -> str:
        """Return the task's name."""
        return str(state.task_name)

    @admin.display(description=_("When"))
    def when(self, state: Any) -> SafeString:
        """See schedule_page."""
        return schedule_page.when(state, state.known)

    @admin.display(description=_("State"))
    def on_or_off(self, state: Any) -> SafeString:
        """See schedule_page."""
        return schedule_page.on_or_off(state, state.known)

    @admin.display(description=_("Last and next"))
    def last_and_next(self, state: Any) -> SafeString:
        """See schedule_page."""
        return schedule_page.last_and_next(state, state.known, self.admin_site.name)

    @admin.display(description=_("Last due times"))
    def last_runs(self, state: Any) -> SafeString:
        """See schedule_page."""
        return schedule_page.last_runs(state, state.known, self.admin_site.name)

    @admin.display(description=_("All runs"))
    def all_runs(self, state: Any) -> SafeString:
        """Return a link to the list of all its runs, with their retries."""
        url = self.url("lambda_tasks_taskrecord_changelist")
        query = urlencode({"schedule": state.name})
        return format_html(
            '<a class="lt-link" href="{}?{}">{}</a>', url, query, gettext("in the list of runs")
        )

    @admin.display(description=_("Next"))
    def coming(self, state: Any) -> SafeString | str:
        """See schedule_page."""
        return schedule_page.coming(state, state.known)

    @admin.display(description=_("Policy"))
    def policy(self, state: Any) -> SafeString | str:
        """See schedule_page."""
        return schedule_page.policy(state, state.known)

    # Actions

    @admin.action(description=_("Pause selected schedules"), permissions=("switch",))
    def pause(self, request: HttpRequest, queryset: QuerySet[ScheduleState]) -> Any:
        """Switch schedules off, once confirmed, with a reason."""
        return self._switch(request, queryset, "pause", scheduling.disable_schedule)

    @admin.action(description=_("Resume selected schedules"), permissions=("switch",))
    def resume(self, request: HttpRequest, queryset: QuerySet[ScheduleState]) -> Any:
        """Switch schedules on, once confirmed."""
        return self._switch(request, queryset, "resume", scheduling.enable_schedule)

    @admin.action(description=_("Run selected schedules now"), permissions=("run",))
    def run_now(self, request: HttpRequest, queryset: QuerySet[ScheduleState]) -> Any:
        """Enqueue a run of each schedule, once confirmed."""

        def run(state: ScheduleState) -> str:
            return gettext("Run now as %s.") % scheduling.run_schedule(state.name).id

        return self._do(request, queryset, "run_now", run)

    def _switch(
        self,
        request: HttpRequest,
        queryset: QuerySet[ScheduleState],
        action: str,
        switch: Callable[..., bool],
    ) -> Any:
        user: Any = request.user
        reason = self.reason(request)
        done = {"pause": gettext("Paused."), "resume": gettext("Resumed.")}[action]

        def switch_one(state: ScheduleState) -> str:
            if not switch(state.name, by=user.get_username(), reason=reason):
                raise LambdaTasksError(gettext("it is so already"))
            return f"{done} {reason}".strip()

        return self._do(request, queryset, action, switch_one)

    def _do(
        self,
        request: HttpRequest,
        queryset: QuerySet[ScheduleState],
        action: str,
        act: Callable[[ScheduleState], str],
    ) -> Any:
        chosen = self.chosen(request, queryset)
        if not self.is_confirmed(request):
            return self.ask(request, QUESTIONS[action], chosen)
        done: list[tuple[ScheduleState, str]] = []
        refused: list[tuple[Any, object]] = []
        for state in chosen:
            try:
                done.append((state, act(state)))
            except (LambdaTasksError, TypeError, ValueError) as error:
                refused.append((state, error))
        self.note(request, done)
        self.report(request, QUESTIONS[action], len(done), refused)
        return None

    def _warn_of_unseen(self, request: HttpRequest) -> None:
        rows = ScheduleState.objects.using(router.db_for_write(ScheduleState))
        unseen = sorted(declared().keys() - set(rows.values_list("name", flat=True)))
        if unseen:
            names = ", ".join(unseen[:N_UNSEEN]) + (", …" if len(unseen) > N_UNSEEN else "")
            told = gettext("No tick has seen these schedules yet: %s. Does a tick run each minute?")
            self.message_user(request, told % names, level=messages.WARNING)
