"""What the page of dead letters shows: messages by task and error, each with its record."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext

from ..operations.dead_letter_box import DeadLetter
from ..operations.dead_letters import group_dead_letters
from . import record_page, shown


def groups(found: Sequence[DeadLetter], *, with_payloads: bool) -> dict[str, Any]:
    """Return dead letters by task and error; texts and arguments only to who may see them."""
    members: dict[tuple[str | None, str | None], list[DeadLetter]] = {}
    for each in found:
        members.setdefault((each.task_name, each.error), []).append(each)
    grouped = [
        {
            "name": group.task_name or gettext("unreadable"),
            "error": (group.error or "") if with_payloads else "",
            "count": group.count,
            "ids": " ".join(each.message_id for each in members[group.task_name, group.error]),
            "letters": [
                _row(each, with_payloads=with_payloads)
                for each in members[group.task_name, group.error]
            ],
        }
        for group in group_dead_letters(found)
    ]
    tasks = sorted({each.task_name for each in found if each.task_name})
    return {"groups": grouped, "n_letters": len(found), "tasks": tasks}


def _row(letter: DeadLetter, *, with_payloads: bool) -> dict[str, Any]:
    return {
        "message_id": letter.message_id,
        "invocation_id": letter.invocation_id if letter.status else None,
        "status": letter.status or "",
        "arguments": _arguments(letter) if with_payloads else "",
        "receives": letter.receives,
        "sent_at": letter.sent_at,
        "why_not": letter.must_not_go_back,
    }


def _arguments(letter: DeadLetter) -> str:
    hidden = record_page.secret_names_of(letter.task_name or "")
    named = (f"{name}={value!r}" for name, value in letter.kwargs.items() if name not in hidden)
    return shown.start_of(" ".join([*map(repr, letter.args), *named]))


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


def refused(letters: Iterable[DeadLetter]) -> list[tuple[object, object]]:
    """Return dead letters that stay, each with the reason."""
    return [
        (Named(each), each.must_not_go_back or gettext("it died again meanwhile"))
        for each in letters
    ]


def not_found(ids: Collection[str], seen: Iterable[DeadLetter]) -> list[tuple[object, object]]:
    """Return the messages that were chosen and not seen, each with what that may mean."""
    seen_ids = {each.message_id for each in seen}
    why = gettext("it is gone, or somebody else looks at it, or it is another queue's")
    return [(id, why) for id in ids if id not in seen_ids]
