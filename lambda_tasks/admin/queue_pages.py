"""What the pages of queues show: how each stands, who has paused it, and its dead letters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from django.utils.translation import gettext

from .. import conf
from ..core.figures import Range
from ..operations import figures
from ..operations.dead_letter_box import DeadLetter
from ..operations.dead_letters import group_dead_letters
from ..operations.figures import QueueFigures
from ..queues.sqs import SQSQueue
from ..records.tables import QueueState
from . import overview_page, record_page, shown

MAX_SHOWN: Final = 50
"""The most dead letters that a page lists."""


def rows(queues: Iterable[QueueFigures], states: Mapping[str, QueueState]) -> list[dict[str, Any]]:
    """Return what the list of queues shows."""
    return [
        {
            **overview_page.queue_row(each),
            "is_paused": each.name in states and states[each.name].is_paused,
        }
        for each in queues
    ]


def one(name: str, state: QueueState | None, range: Range) -> dict[str, Any]:
    """Return what the page of a queue shows."""
    queue = conf.current().queue(name)
    states = {} if state is None else {name: state}
    found = [each for each in figures.queues(range) if each.name == name]
    return {
        "queues": rows(found, states),
        "state": state,
        "settings": [(gettext("Kind"), type(queue).__qualname__), *_settings(queue)],
        "is_in_sqs": isinstance(queue, SQSQueue),
    }


def _settings(queue: Any) -> Iterable[tuple[str, str]]:
    """Yield what the settings say of a queue."""
    for name in ("url", "queue_name", "max_timeout_s", "rate"):
        value = getattr(queue, name, None)
        if value is not None:
            yield name, str(value)


def letters(found: Sequence[DeadLetter], *, with_payloads: bool) -> dict[str, Any]:
    """Return what the page of dead letters shows; arguments only to who may see them."""
    groups = [
        {
            "task_name": each.task_name,
            "error": each.error if with_payloads else "",
            "count": each.count,
        }
        for each in group_dead_letters(found)
    ]
    listed = [
        {
            "message_id": each.message_id,
            "task_name": each.task_name or "",
            "invocation_id": each.invocation_id if each.status else None,
            "status": each.status or "",
            "error": (each.error or "") if with_payloads else "",
            "arguments": _arguments(each) if with_payloads else "",
            "receives": each.receives,
            "sent_at": each.sent_at,
            "why_not": each.must_not_go_back,
        }
        for each in islice(found, MAX_SHOWN)
    ]
    return {"groups": groups, "letters": listed, "n_letters": len(found)}


def _arguments(letter: DeadLetter) -> str:
    hidden = record_page.secret_names_of(letter.task_name or "")
    return shown.start_of(
        " ".join(f"{name}={value!r}" for name, value in letter.kwargs.items() if name not in hidden)
    )


@dataclass(frozen=True, slots=True)
class Named:
    """A dead letter as a confirmation names it."""

    letter: DeadLetter

    @property
    def pk(self) -> str:
        """The id of the message."""
        return self.letter.message_id

    def __str__(self) -> str:
        return f"{self.letter.task_name or gettext('unreadable')} {self.letter.message_id}"


def named(letters: Iterable[DeadLetter]) -> list[Named]:
    """Return dead letters as confirmations name them."""
    return [Named(each) for each in letters]


def refused(letters: Iterable[DeadLetter]) -> list[tuple[Named, object]]:
    """Return dead letters that stay, each with the reason."""
    return [
        (Named(each), each.must_not_go_back or gettext("it died again meanwhile"))
        for each in letters
    ]
