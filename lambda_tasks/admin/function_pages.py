"""The page that asks whether a durable function shall go on from one of its steps, and does it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from ..core.redaction import redact
from ..durable import DurableRun
from ..records.tables import TaskRecord
from . import function_steps, record_page
from .actions import CHOSEN, AsksFirst, Question

QUESTION: Final = Question(
    action="go_on",
    title=_("Go on from a step"),
    button=_("Go on"),
    will=ngettext_lazy(
        "%d step will be forgotten, and the function will run again from there.",
        "%d steps will be forgotten, and the function will run again from the first of them.",
    ),
    did=ngettext_lazy(
        "The function runs again. %d step was forgotten.",
        "The function runs again. %d steps were forgotten.",
    ),
    warnings=[
        _("The steps before keep their results. Signals that have come stay."),
        _("What a forgotten step has committed stays, and the step does it again."),
    ],
)

STEP: Final = "step"
"""The field with the number of a step, from 1. Its name may have secrets in it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step as the confirmation names it."""

    pk: int
    """Its number."""
    name: str

    def __str__(self) -> str:
        return self.name


class FunctionPages(AsksFirst):
    """The action of an admin of records on the steps of durable functions."""

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view(self.go_on_view)
        return [path("<uuid:id>/go-on/", view, name="lambda_tasks_go_on"), *super().page_urls()]

    def go_on_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        """Ask whether a function shall go on from a step; or let it do so, once confirmed."""
        record: Any = self.get_object(request, str(id))
        if not self.has_view_permission(request, record):
            raise PermissionDenied
        if not (self.has_replay_permission(request) and self.has_payload_permission(request)):
            raise PermissionDenied
        call_id = None if record is None else record.call_id
        last = None if call_id is None else function_steps.last_run(call_id)
        if call_id is None or last is None:
            raise Http404("There is no durable function of this id.")
        address = self.url("lambda_tasks_taskrecord_change", last.pk)
        if request.method != "POST":
            return HttpResponseRedirect(address)
        number = _number(request.POST.get(STEP, ""))
        try:
            asked = self._ask_or_go_on(request, DurableRun(call_id), last, number)
        except (LookupError, ValueError) as error:
            told = redact(str(error), record_page.secret_values(last))
            self.message_user(request, told, level=messages.ERROR)
            asked = None
        return asked or HttpResponseRedirect(address)

    def _ask_or_go_on(
        self, request: HttpRequest, run: DurableRun, last: TaskRecord, number: int
    ) -> TemplateResponse | None:
        """Ask about a step; None once it is done. Raises LookupError, and what retry_from() does.

        The confirmation has the numbers of all steps that are meant, so that none is forgotten that
        it has not named.
        """
        name = _name(run, number)
        names = run.retry_from(name, dry_run=True)
        steps = _steps(names, number, record_page.secret_values(last))
        numbers = json.dumps([str(each.pk) for each in steps])
        if not (self.is_confirmed(request) and request.POST.get(CHOSEN) == numbers):
            asked = self.ask(request, QUESTION, steps)
            context: dict[str, Any] = asked.context_data or {}
            context |= {
                "post_url": request.path,
                "back_url": self.url("lambda_tasks_taskrecord_change", last.pk),
                "more_fields": {STEP: number},
            }
            return asked
        run.retry_from(name)
        self.note(request, [(last, f"Goes on from step {number}: {len(steps)} forgotten.")])
        self.report(request, QUESTION, len(steps), ())
        return None

    def has_payload_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may see arguments, results and tracebacks."""
        raise NotImplementedError

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may have tasks run again."""
        raise NotImplementedError


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadRequest("The form names no step.") from None


def _name(run: DurableRun, number: int) -> str:
    """Return the name of a step. Raises LookupError where there is none of this number."""
    steps = run.steps()
    if not 0 < number <= len(steps):
        raise LookupError(f"{run!r} has no step {number}.")
    return steps[number - 1].name


def _steps(names: Sequence[str], first: int, secrets: Sequence[Any]) -> list[Step]:
    return [Step(number, redact(name, secrets)) for number, name in enumerate(names, first)]
