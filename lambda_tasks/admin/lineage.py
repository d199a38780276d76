"""A call with all that follows from it, as a small tree: retries, further runs, replays."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from django.db.models import Q
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from ..core.message import UNDO_HEADER
from ..records.database import all_records
from ..records.tables import TaskRecord
from . import shown
from .pages import read_once

COLUMNS: Final = (
    "status", "enqueued_at", "root_id", "retry_of", "run_after", "sent_at", "start_time",
    "end_time", "n_attempts", "n_retries", "n_continues", "headers",
)  # fmt: skip
"""The columns of a lineage's records that a page shows."""

MAX_SHOWN: Final = 50
"""The most records of one lineage that a page lists."""


def family(record: TaskRecord) -> list[TaskRecord]:
    """Return the first call and all that follows from it; one more than a page lists, at most."""
    return read_once(record, _read_family)


def _read_family(record: TaskRecord) -> list[TaskRecord]:
    root = record.root_id or record.pk
    found = all_records().filter(Q(root_id=root) | Q(pk=root))
    found = found.order_by("enqueued_at", "id").only(*COLUMNS)
    return list(found[: MAX_SHOWN + 1])


def tree(record: TaskRecord, site: str) -> SafeString | None:
    """Return a record's lineage, each member as a link; nothing for a call that nothing follows."""
    found = family(record)
    if len(found) < 2:
        return None
    more = shown.quiet(gettext("and more")) if len(found) > MAX_SHOWN else ""
    return format_html("{}{}", _Tree(found[:MAX_SHOWN], record, site).html(), more)


class _Tree:
    """Members of a lineage. What repeats one stands below it, and other branches are indented."""

    def __init__(self, members: Sequence[TaskRecord], this: TaskRecord, site: str) -> None:
        self._this = this
        self._site = site
        self._by_id = {each.pk: each for each in members}
        self._after: defaultdict[UUID | None, list[TaskRecord]] = defaultdict(list)
        for each in members:
            before = self._before(each)
            self._after[None if before is None else before.pk].append(each)

    def html(self) -> SafeString:
        """Return the tree as nested lists."""
        # A cleanup deletes the oldest records first, so there may be several beginnings.
        return self._list(line for each in self._after[None] for line in self._lines(each))

    def _lines(self, first: TaskRecord) -> Iterator[SafeString]:
        """Yield a record, and below it the chain of those that repeat it, with their branches."""
        member: TaskRecord | None = first
        while member is not None:
            after = self._after[member.pk]
            repeats = next((each for each in after if each.retry_of == member.pk), None)
            branches = [line for each in after if each is not repeats for line in self._lines(each)]
            below = self._list(branches) if branches else ""
            line = shown.record_line(member, self._site, self._relation(member))
            yield format_html("{}{}", line, below)
            member = repeats

    def _list(self, lines: Iterator[SafeString] | Sequence[SafeString]) -> SafeString:
        items = format_html_join("", "<li>{}</li>", ((each,) for each in lines))
        return format_html('<ul class="lt-tree">{}</ul>', items)

    def _before(self, member: TaskRecord) -> TaskRecord | None:
        """Return the record that this one repeats, or else the first call."""
        id = member.retry_of or (member.root_id if member.root_id != member.pk else None)
        return None if id is None else self._by_id.get(id)

    def _relation(self, member: TaskRecord) -> str:
        relation = self._word(member)
        return f"{relation} ({gettext('this record')})" if member.pk == self._this.pk else relation

    def _word(self, member: TaskRecord) -> str:
        """Return what a record is to the one before it."""
        if UNDO_HEADER in (member.headers or {}):
            return gettext("compensations")
        before = self._before(member)
        if before is None:
            is_first = member.root_id in (None, member.pk)
            return gettext("first call") if is_first else gettext("follows a deleted record")
        if member.n_continues > before.n_continues:
            return gettext("goes on")
        return gettext("retry") if member.n_retries > before.n_retries else gettext("replay")
