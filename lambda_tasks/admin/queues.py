"""The admin of queues: how each stands, pause and resume, and its dead letters."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import conf, operations
from ..core.figures import Range
from ..errors import LambdaTasksError
from ..operations import figures
from ..records.tables import QueueState
from . import pages, queue_pages
from .actions import AsksFirst, Question

QUESTIONS: Final = {
    "pause": Question(
        action="pause",
        title=_("Pause queues"),
        button=_("Pause"),
        will=ngettext_lazy("%d queue will be paused.", "%d queues will be paused."),
        did=ngettext_lazy("%d queue was paused.", "%d queues were paused."),
        warnings=[
            _("Its calls wait in their rows, also what still arrives. What runs goes on."),
            _("Direct calls, which have no row, run."),
        ],
        asks_why=True,
    ),
    "resume": Question(
        action="resume",
        title=_("Resume queues"),
        button=_("Resume"),
        will=ngettext_lazy("%d queue will go on.", "%d queues will go on."),
        did=ngettext_lazy("%d queue goes on.", "%d queues go on."),
        warnings=[_("What waits in its rows begins now, or is sent within a minute.")],
        asks_why=True,
    ),
}

REDRIVE: Final = Question(
    action="redrive",
    title=_("Send dead letters back"),
    button=_("Send back"),
    will=ngettext_lazy("%d message will go back to its queue.", "%d messages will go back."),
    did=ngettext_lazy("%d message went back.", "%d messages went back."),
    warnings=[
        _("What has ended, or would be refused again, stays where it is."),
        _("What killed them may do so again: send a few first."),
    ],
)

ACTIONS: Final[dict[str, Callable[..., bool]]] = {
    "pause": operations.pause_queue,
    "resume": operations.resume_queue,
}

MAX_REDRIVEN: Final = 500
"""The most dead letters that one action sends back; the command sends more."""

PER_SECOND: Final = 100.0
"""The messages that an action sends back in a second, as somebody waits for the page."""

MAX_SAMPLE: Final = 100
"""The most dead letters that a page looks at."""


@admin.register(QueueState)
class QueueStateAdmin(AsksFirst):
    """The admin of queues. What they are is in the settings; here they are paused and looked at."""

    max_chosen = 1000
    actions = ()

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view(self.dead_letters_view)
        name = "lambda_tasks_dead_letters"
        return [path("<path:name>/dead-letters/", view, name=name), *super().page_urls()]

    # What may be seen and done

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only the settings have queues."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: what can be changed has actions."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: without its row, a queue would forget that it is paused."""
        return False

    def has_pause_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may pause and resume queues."""
        return self.may(request, "pause")

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may send dead letters back."""
        return self.may(request, "redrive")

    def chosen(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[QueueState]:
        """Return the queues that were selected or confirmed; most of them have no row."""
        named = request.POST.getlist(ACTION_CHECKBOX_NAME)
        if "chosen" in request.POST:
            named = self._confirmed_keys(request.POST["chosen"])
        states = operations.queue_states()
        return [states.get(name, QueueState(name=name)) for name in _known(named)]

    # Pages

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show all queues; or ask about an action, and do it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            answer = self._act(request)
            return answer or HttpResponseRedirect(request.get_full_path())
        chosen = pages.range_of(request, Range.LAST_HOUR)
        context = {
            "ranges": pages.ranges(request, chosen),
            "queues": queue_pages.rows(figures.queues(chosen), operations.queue_states()),
            "may_view_queues": True,
        }
        return self.page(request, "queues", _("Queues"), context)

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show one queue."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        name = self._name(object_id)
        chosen = pages.range_of(request, Range.LAST_DAY)
        state = operations.queue_states().get(name)
        is_paused = state is not None and state.is_paused
        action = "resume" if is_paused else "pause"
        context = {
            **queue_pages.one(name, state, chosen),
            "ranges": pages.ranges(request, chosen),
            "below": "lambda_tasks/queue_actions.html",
            "name": name,
            "list_url": self.url("lambda_tasks_queuestate_changelist"),
            "question": QUESTIONS[action] if self.has_pause_permission(request) else None,
            "letters_url": self._letters_url(name),
        }
        return self.page(request, "queue", name, context)

    def dead_letters_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show a sample of a queue's dead letters; or ask about sending them back, and do it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        name = self._name(name)
        try:
            if request.method == "POST":
                return self._redrive(request, name)
            letters = operations.peek_dead_letters(name, limit=MAX_SAMPLE)
        except LambdaTasksError as error:
            self.message_user(request, str(error), level=messages.ERROR)
            return HttpResponseRedirect(self.url("lambda_tasks_queuestate_change", name))
        with_payloads = pages.may(request, "view_payload", "taskrecord")
        context = {
            "name": name,
            **queue_pages.letters(letters, with_payloads=with_payloads),
            "may_redrive": self.has_redrive_permission(request),
            "is_sample": len(letters) >= MAX_SAMPLE,
            "max_redriven": MAX_REDRIVEN,
        }
        title = gettext("Dead letters of %s") % name
        return self.page(request, "dead_letters", title, context, refreshes=False)

    # Actions

    def _act(self, request: HttpRequest) -> HttpResponse | None:
        """Pause or resume the chosen queues, once confirmed."""
        action = request.POST.get("action", "")
        if action not in ACTIONS:
            raise BadRequest("There is no such action.")
        if not self.has_pause_permission(request):
            raise PermissionDenied
        question = QUESTIONS[action]
        is_paused = action == "resume"
        chosen = self.chosen(request, QueueState.objects.none())
        suitable = [each for each in chosen if each.is_paused is is_paused]
        refused = [(each, gettext("it is so already")) for each in chosen if each not in suitable]
        if not self.is_confirmed(request):
            return self.ask(request, question, suitable, refused=refused)
        user: Any = request.user
        reason = self.reason(request)
        done = [
            each
            for each in suitable
            if ACTIONS[action](each.name, by=user.get_username(), reason=reason)
        ]
        said = {"pause": "Paused.", "resume": "Resumed."}[action]
        self.note(request, [(each, f"{said} {reason}".strip()) for each in done])
        self.report(request, question, len(done), refused)
        return None

    def _redrive(self, request: HttpRequest, name: str) -> HttpResponse:
        """Send dead letters back, once confirmed: of a task or of all, up to a number."""
        if not self.has_redrive_permission(request):
            raise PermissionDenied
        task, limit = request.POST.get("task") or None, _limit(request.POST.get("limit"))
        if not self.is_confirmed(request):
            found = operations.redrive_dead_letters(
                name, task=task, limit=limit, per_second=PER_SECOND, dry_run=True
            )
            return self._ask_to_redrive(request, name, task, found)
        found = operations.redrive_dead_letters(name, task=task, limit=limit, per_second=PER_SECOND)
        n_sent = len(found.sent)
        if n_sent:
            change = f"{n_sent} dead letters sent back{f' of {task}' if task else ''}."
            self.note(request, [(QueueState(name=name), change)])
        self.report(request, REDRIVE, n_sent, queue_pages.refused(found.skipped))
        return HttpResponseRedirect(self._letters_url(name))

    def _ask_to_redrive(
        self, request: HttpRequest, name: str, task: str | None, found: operations.Redriven
    ) -> TemplateResponse:
        named = queue_pages.named(found.sent)
        asked = self.ask(request, REDRIVE, named, refused=queue_pages.refused(found.skipped))
        context: dict[str, Any] = asked.context_data or {}
        context |= {
            "post_url": self._letters_url(name),
            "more_fields": {"task": task or "", "limit": len(named)},
        }
        return asked

    def _letters_url(self, name: str) -> str:
        return self.url("lambda_tasks_dead_letters", name)

    def _name(self, quoted: str) -> str:
        """Return the name of a queue of the settings. Raises Http404 for another one."""
        name = unquote(quoted)
        if name not in conf.current().queues:
            raise Http404(f"There is no queue {name!r}.")
        return name


def _known(names: Iterable[str]) -> list[str]:
    queues = conf.current().queues
    return [name for name in dict.fromkeys(names) if name in queues]


def _limit(text: str | None) -> int:
    """Return how many an action is to send back, as a form says it."""
    try:
        return min(max(int(text or MAX_REDRIVEN), 1), MAX_REDRIVEN)
    except ValueError:
        raise BadRequest("The limit is no number.") from None
