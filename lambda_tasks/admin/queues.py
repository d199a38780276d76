"""The admin of queues: how each stands, pause and resume, and its dead letters."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import conf, operations
from ..core.figures import Range
from ..operations import figures
from ..records.tables import QueueState
from . import doctor_page, pages, queue_pages
from .actions import Question
from .dead_letters import DeadLetterPages

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

ACTIONS: Final[dict[str, Callable[..., bool]]] = {
    "pause": operations.pause_queue,
    "resume": operations.resume_queue,
}


@admin.register(QueueState)
class QueueStateAdmin(DeadLetterPages):
    """The admin of queues. What they are is in the settings; here they are paused and looked at."""

    max_chosen = 1000
    actions = ()

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
        found, dead = figures.queues(chosen), queue_pages.dead_letters()
        n_wrong = doctor_page.n_wrong(request, [each.name for each in found])
        context = {
            "ranges": pages.ranges(request, chosen),
            "queues": queue_pages.rows(found, dead, n_wrong),
            "may_view_queues": True,
            "may_pause": self.has_pause_permission(request),
            "below": "lambda_tasks/queue_choice.html",
            "questions": QUESTIONS.values(),
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
        name = self.queue_name(object_id)
        chosen = pages.range_of(request, Range.LAST_DAY)
        state = operations.queue_states().get(name)
        is_paused = state is not None and state.is_paused
        action = "resume" if is_paused else "pause"
        context = {
            **queue_pages.one(name, chosen),
            "state": state,
            **doctor_page.of_queue(request, name),
            "ranges": pages.ranges(request, chosen),
            "below": "lambda_tasks/queue_actions.html",
            "name": name,
            "list_url": self.url("lambda_tasks_queuestate_changelist"),
            "question": QUESTIONS[action] if self.has_pause_permission(request) else None,
            "letters_url": self.letters_url(name),
        }
        return self.page(request, "queue", name, context)

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
        if not chosen:
            told = gettext("Choose at least one queue first.")
            self.message_user(request, told, level=messages.ERROR)
            return None
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


def _known(names: Iterable[str]) -> list[str]:
    queues = conf.current().queues
    return [name for name in dict.fromkeys(names) if name in queues]
