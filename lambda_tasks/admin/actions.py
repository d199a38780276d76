"""Actions that ask first: a page says what will happen to how many, and names the first ten.

What is confirmed is what the page has counted, whatever the list shows by then.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import BadRequest, ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext, ngettext

from .pages import PagesAdmin
from .words import StrPromise

logger = logging.getLogger("lambda_tasks")

FIRST_NAMED: Final = 10
"""The number of objects that a confirmation names."""

CONFIRMED: Final = "confirmed"
CHOSEN: Final = "chosen"
REASON: Final = "reason"
"""The fields of the confirmation: that it is one, the keys of what was counted, and why."""

FIRST: Final = "first"
"""The field that says that only N_FIRST are meant for now, to see what becomes of them."""

N_FIRST: Final = 5
"""The number of objects with which one tries an action before it is done to the rest."""

MAX_REASON: Final = 1000
"""The most characters of a reason."""

MAX_REPR: Final = 200
"""The most characters of an object's name in the admin's log."""


MAX_TOLD: Final = 10
"""The most objects of which a page tells why nothing was done to them."""

Refused = Sequence[tuple[Any, object]]
"""Objects that an action can't change, each with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a confirmation asks, and which action its answer is for."""

    action: str
    title: StrPromise
    button: StrPromise
    will: StrPromise
    """What will be done to how many: a plural form, with %d."""
    did: StrPromise
    """What was done, in the same way."""
    warnings: Sequence[StrPromise] = ()
    """What there is to know before it is done."""
    asks_why: bool = False
    is_harmful: bool = False
    can_be_tried: bool = False
    """Whether it can be done to N_FIRST of them first."""


class AsksFirst(PagesAdmin):
    """An admin of rows that the library writes, and that only actions change.

    They show a confirmation, and leave a trace in the admin's log.
    """

    max_chosen: int
    """The most objects that one action takes."""
    named_by: Sequence[str] = ()
    """The columns that actions need; all if there are none."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only calls and code create these rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a saved form would overwrite what tasks and ticks write meanwhile."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: Django's page would delete a row on which something still depends."""
        return False

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """See ModelAdmin. Refuses an action on keys that are none, with a message."""
        try:
            for key in request.POST.getlist(ACTION_CHECKBOX_NAME):
                self.opts.pk.to_python(key)
        except ValidationError as error:
            self.message_user(request, "; ".join(error.messages), level=messages.ERROR)
            return HttpResponseRedirect(request.path)
        return super().changelist_view(request, extra_context)

    def chosen(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        """Return the objects that were confirmed, or else those that are selected.

        Raises BadRequest for keys that no confirmation has written.
        """
        if CHOSEN in request.POST:
            keys = self._confirmed_keys(request.POST[CHOSEN])
            queryset = self.get_queryset(request).filter(pk__in=keys)
        return list(queryset.only(*self.named_by)[: self.max_chosen])

    def is_confirmed(self, request: HttpRequest) -> bool:
        """Return whether the confirmation was answered."""
        return request.POST.get(CONFIRMED) == "yes"

    def ask(
        self,
        request: HttpRequest,
        question: Question,
        chosen: Sequence[Any],
        *,
        warnings: Iterable[str] = (),
        refused: Refused = (),
    ) -> TemplateResponse:
        """Return the page that asks, about these objects."""
        context = self.admin_site.each_context(request) | {
            "title": question.title,
            "opts": self.opts,
            "media": self.media,
            "question": question,
            "sentence": question.will % len(chosen),
            "warnings": [*question.warnings, *warnings],
            "named": chosen[:FIRST_NAMED],
            "n_more": max(len(chosen) - FIRST_NAMED, 0),
            "refused": refused[:MAX_TOLD],
            "n_refused": len(refused),
            "n_more_refused": max(len(refused) - MAX_TOLD, 0),
            "max_chosen": self.max_chosen,
            "is_cut_off": len(chosen) + len(refused) >= self.max_chosen,
            "keys": json.dumps([str(each.pk) for each in chosen]),
            "first_key": chosen[0].pk if chosen else "",
            "max_reason": MAX_REASON,
            "n_first": N_FIRST if question.can_be_tried and len(chosen) > N_FIRST else 0,
            "back_url": request.path,
        }
        return TemplateResponse(request, "lambda_tasks/confirmation.html", context)

    def reason(self, request: HttpRequest) -> str:
        """Return the reason that the confirmation was given."""
        return request.POST.get(REASON, "").strip()[:MAX_REASON]

    def note(
        self, request: HttpRequest, done: Iterable[tuple[Any, str]], *, flag: int = CHANGE
    ) -> None:
        """Write an entry in the admin's log for each object, and a line in the library's."""
        user: Any = request.user  # Django's User, or a project's own
        type_id = ContentType.objects.get_for_model(self.model).pk
        entries = []
        for each, change in done:
            entry = LogEntry(
                user_id=user.pk, content_type_id=type_id, object_id=str(each.pk),
                object_repr=str(each)[:MAX_REPR], action_flag=flag, change_message=change,
            )  # fmt: skip
            entries.append(entry)
            logger.info("%s: %s By %s, in the admin.", each, change, user.get_username())
        LogEntry.objects.bulk_create(entries)

    def is_trial(self, request: HttpRequest) -> bool:
        """Return whether only N_FIRST of the confirmed objects are meant for now."""
        return FIRST in request.POST

    def report(
        self, request: HttpRequest, question: Question, n_done: int, refused: Refused
    ) -> None:
        """Tell the user what was done to how many, and why nothing was done to others."""
        for each, why in refused[:MAX_TOLD]:
            told = gettext("Skipped %(name)s: %(reason)s") % {"name": each, "reason": why}
            self.message_user(request, told, level=messages.ERROR)
        if n_more := len(refused[MAX_TOLD:]):
            told = ngettext("and %d more", "and %d more", n_more) % n_more
            self.message_user(request, told, level=messages.ERROR)
        if n_done:
            self.message_user(request, question.did % n_done, level=messages.SUCCESS)

    def _confirmed_keys(self, text: str) -> list[Any]:
        try:
            keys = json.loads(text)
            if not isinstance(keys, list):
                raise TypeError(text)
            return [self.opts.pk.to_python(str(key)) for key in keys[: self.max_chosen]]
        except (ValueError, TypeError, RecursionError, ValidationError) as error:
            raise BadRequest("This is no answer to a confirmation.") from error
