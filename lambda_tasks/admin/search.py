"""The search of the list: by an id or its beginning, by a task's or error's name, an argument."""

import re
import uuid
from typing import Any, Final, NamedTuple

from django.db import connections, models
from django.db.models import Q, QuerySet
from django.db.models.functions import Cast

from ..records.filters import filtered
from ..records.tables import RecordQuerySet, TaskRecord
from .shown import ID_DIGITS

MAX_BEGINNING: Final = 100
"""The most ids with the same beginning that are found. Few of a million share eight digits."""

UUID_DIGITS: Final = 32
"""The hexadecimal digits of a whole id."""

HYPHEN_POSITIONS: Final = (8, 12, 16, 20)
"""The number of digits before each hyphen of an id."""


ARGUMENT: Final = re.compile(r"(?P<name>[^\W\d]\w*)=(?P<value>.*)")
"""The name of an argument, and its value."""


def finds_id(records: QuerySet[TaskRecord], term: str) -> bool:
    """Return whether a term is a whole id, or the beginning of one that these records have."""
    ids = _ids(term)
    return ids is not None and (ids.is_whole or beginning(records, term).exists())


def by_id(records: QuerySet[TaskRecord], term: str) -> QuerySet[TaskRecord]:
    """Return the records whose id begins with a term, up to MAX_BEGINNING.

    For a whole id, all that followed from its call are among them.
    """
    ids = _ids(term)
    if ids is None:
        return records.none()
    if ids.is_whole:
        return records.filter(Q(id=ids.first) | Q(root_id=ids.first))
    # Two statements: in one, PostgreSQL takes the range for long and reads the list's index.
    everywhere = TaskRecord.objects.using(records.db)
    return records.filter(id__in=list(beginning(everywhere, term)[:MAX_BEGINNING]))


def beginning(records: QuerySet[TaskRecord], term: str) -> QuerySet[TaskRecord, Any]:
    """Return the ids that begin with a term, in the order of the primary key."""
    ids = _ids(term)
    if ids is None:
        return records.none().values_list("id", flat=True)
    found = records.order_by("id").values_list("id", flat=True)
    if connections[records.db].vendor != "mysql":
        return found.filter(id__range=(ids.first, ids.last))
    # MariaDB orders UUIDs by other digits first. MySQL has them as text without hyphens.
    n_hyphens = sum(len(ids.digits) > position for position in HYPHEN_POSITIONS)
    hyphened = str(ids.first)[: len(ids.digits) + n_hyphens]
    found = found.alias(id_text=Cast("id", models.CharField(max_length=36)))
    return found.filter(Q(id_text__startswith=hyphened) | Q(id_text__startswith=ids.digits))


def by_text(records: RecordQuerySet, term: str, *, in_arguments: bool) -> QuerySet[TaskRecord]:
    """Return the records with this text in the name of their task or error, or in an argument.

    A term like `order_id=4711` finds the calls with this value of an argument.
    """
    found = Q(task_name__icontains=term) | Q(exception_class__icontains=term)
    if in_arguments:
        if named := ARGUMENT.fullmatch(term):
            return filtered(records, {"arguments": {named["name"]: named["value"]}})
        text = models.TextField()
        records = records.alias(named=Cast("kwargs", text), positional=Cast("args", text))
        found |= Q(named__icontains=term) | Q(positional__icontains=term)
    return records.filter(found)


class _Ids(NamedTuple):
    """The ids that begin with these digits."""

    digits: str
    first: uuid.UUID
    last: uuid.UUID

    @property
    def is_whole(self) -> bool:
        """Whether it is one id."""
        return self.first == self.last


def _ids(term: str) -> _Ids | None:
    """Return the ids that begin with a term; None where it is no beginning of an id."""
    digits = term.strip().replace("-", "").lower()
    if not set(digits) <= set("0123456789abcdef") or not ID_DIGITS <= len(digits) <= UUID_DIGITS:
        return None
    first, last = (uuid.UUID(digits.ljust(UUID_DIGITS, filler)) for filler in "0f")
    return _Ids(digits, first, last)
