"""The page of a queue's dead letters: choose some or all, send them back at a rate, delete them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import unquote
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import conf, operations
from ..errors import LambdaTasksError, QueueUnavailable
from ..operations.dead_letter_box import DeadLetter
from ..records.tables import QueueState
from . import dead_letter_page, pages
from .actions import CHOSEN, FIRST_NAMED, AsksFirst, Question, Refused
from .dead_letter_page import Named

MAX_SAMPLE: Final = 100
"""The most dead letters that a page looks at."""

MAX_REDRIVEN: Final = 500
"""The most dead letters that one action sends back; the command sends more."""

PER_SECOND: Final = 10.0
"""The messages that go back in a second, unless the form says otherwise. As of the command."""

LOOK_LIMIT: Final = timedelta(seconds=15)
"""How long a page looks through a dead-letter queue."""

ACTION_LIMIT: Final = timedelta(seconds=20)
"""How long an action sends or deletes: somebody waits for the page, and so does a web server."""

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

PURGE: Final = Question(
    action="purge",
    title=_("Delete dead letters"),
    button=_("Delete"),
    will=ngettext_lazy("%d message will be deleted.", "%d messages will be deleted."),
    did=ngettext_lazy("%d message was deleted.", "%d messages were deleted."),
    warnings=[_("Messages are gone for good then. Their records stay.")],
    is_harmful=True,
)

ALL: Final = "redrive_all"
"""The action that sends back all of a task, or of all tasks, and not only those chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """What an action has done, or would do."""

    question: Question
    letters: Sequence[DeadLetter]
    refused: Refused
    is_cut_off: bool
    warnings: Sequence[str]
    fields: Mapping[str, str] = field(default_factory=dict)
    """What the confirmation sends along."""


class RedriveForm(forms.Form):
    """How many go back, and how fast."""

    limit = forms.IntegerField(
        label=_("Messages at most"), min_value=1, max_value=MAX_REDRIVEN, initial=MAX_REDRIVEN
    )
    per_second = forms.FloatField(
        label=_("Messages per second"), min_value=0.1, max_value=100, initial=PER_SECOND
    )


class DeadLetterPages(AsksFirst):
    """The pages of an admin of queues that show dead letters, and act on them."""

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view(self.dead_letters_view)
        name = "lambda_tasks_dead_letters"
        return [path("<path:name>/dead-letters/", view, name=name), *super().page_urls()]

    def dead_letters_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Show a sample of a queue's dead letters; or ask about an action on some, and do it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        name = self.queue_name(name)
        try:
            if request.method == "POST":
                return self._act_on_letters(request, name)
            letters = operations.peek_dead_letters(name, limit=MAX_SAMPLE, within=LOOK_LIMIT)
        except LambdaTasksError as error:
            self.message_user(request, str(error), level=messages.ERROR)
            return HttpResponseRedirect(self.url("lambda_tasks_queuestate_change", name))
        with_payloads = pages.may(request, "view_payload", "taskrecord")
        context = {
            "name": name,
            **dead_letter_page.groups(letters, with_payloads=with_payloads),
            "may_redrive": self.has_redrive_permission(request),
            "may_purge": self.has_purge_permission(request),
            "is_sample": len(letters) >= MAX_SAMPLE,
            "form": RedriveForm(),
        }
        title = gettext("Dead letters of %s") % name
        return self.page(request, "dead_letters", title, context, refreshes=False)

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may send dead letters back."""
        return self.may(request, "redrive")

    def has_purge_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may delete dead letters."""
        return self.may(request, "purge")

    def queue_name(self, quoted: str) -> str:
        """Return the name of a queue of the settings. Raises Http404 for another one."""
        name = unquote(quoted)
        if name not in conf.current().queues:
            raise Http404(f"There is no queue {name!r}.")
        return name

    def letters_url(self, name: str) -> str:
        """Return the address of a queue's dead letters."""
        return self.url("lambda_tasks_dead_letters", name)

    def _act_on_letters(self, request: HttpRequest, name: str) -> HttpResponse:
        """Do what the form says, once it is confirmed; ask before."""
        action = request.POST.get("action", "")
        if action not in (REDRIVE.action, ALL, PURGE.action):
            raise BadRequest("There is no such action.")
        is_purge = action == PURGE.action
        if not (self.has_purge_permission if is_purge else self.has_redrive_permission)(request):
            raise PermissionDenied
        ids = None if action == ALL else self._chosen_ids(request)
        if ids == []:
            return self._back(request, name, gettext("Choose at least one message first."))
        if is_purge:
            assert ids is not None
            outcome: _Outcome | str = self._purge(request, name, ids)
        else:
            outcome = self._redrive(request, name, ids)
        if isinstance(outcome, str):
            return self._back(request, name, outcome)
        answer = self._tell if self.is_confirmed(request) else self._ask_about
        return answer(request, name, outcome)

    def _chosen_ids(self, request: HttpRequest) -> list[str]:
        """Return the ids that were confirmed, or else those that were chosen, each once.

        The box of a group has the ids of all its messages.
        """
        if CHOSEN in request.POST:
            return self._confirmed_keys(request.POST[CHOSEN])
        boxes = request.POST.getlist(ACTION_CHECKBOX_NAME)
        return list(dict.fromkeys(id for box in boxes for id in box.split()))[: self.max_chosen]

    def _redrive(self, request: HttpRequest, name: str, ids: list[str] | None) -> _Outcome | str:
        """Send dead letters back, or look what would be: those chosen, of a task, or all.

        Return a text for a form that makes no sense.
        """
        form = RedriveForm(request.POST)
        if not form.is_valid():
            wrong = (f"{form[key].label}: {each}" for key, (each, *_) in form.errors.items())
            return " ".join(wrong)
        per_second: float = form.cleaned_data["per_second"]
        in_time = max(int(per_second * ACTION_LIMIT.total_seconds()), 1)
        limit = min(in_time, form.cleaned_data["limit"] if ids is None else MAX_REDRIVEN)
        is_confirmed = self.is_confirmed(request)
        with self._noting_what_precedes_a_failure(request, name, REDRIVE) as progress:
            found = operations.redrive_dead_letters(
                name,
                task=(request.POST.get("task") or None) if ids is None else None,
                ids=ids,
                limit=limit,
                per_second=per_second,
                within=ACTION_LIMIT if is_confirmed else LOOK_LIMIT,
                dry_run=not is_confirmed,
                on_progress=progress.show,
            )
        refused = dead_letter_page.refused(found.skipped)
        if ids is not None and not found.is_cut_off and len(found.sent) < limit:
            refused += dead_letter_page.not_found(ids, [*found.sent, *found.skipped])
        warnings = []
        if len(found.sent) == in_time:
            told = gettext("At this rate, one action sends back %d at most. For more:")
            command = f"manage.py lambda_tasks dlq redrive {name} --per-second {per_second:g}"
            warnings = [f"{told % in_time} {command}"]
        return _Outcome(
            question=REDRIVE,
            letters=found.sent,
            refused=refused,
            is_cut_off=found.is_cut_off,
            warnings=warnings,
            fields={"per_second": f"{per_second:g}", "limit": str(limit)},
        )

    def _purge(self, request: HttpRequest, name: str, ids: list[str]) -> _Outcome:
        """Delete the dead letters that were chosen, or look which would be."""
        user: Any = request.user
        is_confirmed = self.is_confirmed(request)
        with self._noting_what_precedes_a_failure(request, name, PURGE) as progress:
            found = operations.purge_dead_letters(
                name,
                ids=ids,
                by=user.get_username(),
                within=ACTION_LIMIT if is_confirmed else LOOK_LIMIT,
                dry_run=not is_confirmed,
                on_progress=progress.show,
            )
        warnings = []
        if n_lost := sum(each.is_direct and each.status is None for each in found.deleted):
            told = ngettext(
                "%d of them has no record: nothing else knows of this call.",
                "%d of them have no record: nothing else knows of these calls.",
                n_lost,
            )
            warnings = [told % n_lost]
        missing = [] if found.is_cut_off else dead_letter_page.not_found(ids, found.deleted)
        return _Outcome(
            question=PURGE,
            letters=found.deleted,
            refused=missing,
            is_cut_off=found.is_cut_off,
            warnings=warnings,
        )

    def _ask_about(self, request: HttpRequest, name: str, outcome: _Outcome) -> HttpResponse:
        named = [Named(each) for each in outcome.letters]
        asked = self.ask(
            request, outcome.question, named, warnings=outcome.warnings, refused=outcome.refused
        )
        context: dict[str, Any] = asked.context_data or {}
        address = self.letters_url(name)
        context |= {"post_url": address, "back_url": address, "more_fields": outcome.fields}
        return asked

    def _tell(self, request: HttpRequest, name: str, outcome: _Outcome) -> HttpResponse:
        """Write the admin's log, say what was done and what not, and show what is left."""
        question, letters = outcome.question, outcome.letters
        if letters:
            ids = ", ".join(each.message_id for each in letters[:FIRST_NAMED])
            n_more = len(letters) - FIRST_NAMED
            more = f" and {n_more} more" if n_more > 0 else ""
            self._note(request, name, question, len(letters), f": {ids}{more}.")
        self.report(request, question, len(letters), outcome.refused)
        told = gettext("SQS was too slow for all of them: choose the others again.")
        return self._back(request, name, told if outcome.is_cut_off else "")

    @contextmanager
    def _noting_what_precedes_a_failure(
        self, request: HttpRequest, name: str, question: Question
    ) -> "Iterator[_Progress]":
        """Write what was done into the admin's log, and say it, if SQS fails in the middle."""
        progress = _Progress()
        try:
            yield progress
        except QueueUnavailable:
            if progress.n_done and self.is_confirmed(request):
                self._note(request, name, question, progress.n_done, ", then SQS has failed.")
                self.report(request, question, progress.n_done, ())
            raise

    def _note(self, request: HttpRequest, name: str, question: Question, n: int, more: str) -> None:
        done = {REDRIVE.action: "sent back", PURGE.action: "deleted"}[question.action]
        change = f"{n} dead letter{'' if n == 1 else 's'} {done}{more}"
        self.note(request, [(QueueState(name=name), change)])

    def _back(self, request: HttpRequest, name: str, error: str = "") -> HttpResponse:
        """Return to the page of the queue's dead letters, with what went wrong."""
        if error:
            self.message_user(request, error, level=messages.ERROR)
        return HttpResponseRedirect(self.letters_url(name))


class _Progress:
    """How far an action has come."""

    n_done = 0

    def show(self, done: int, total: int) -> None:
        """See OnProgress."""
        self.n_done = done
