"""Records that have not begun in time. They are cancelled by whoever looks at them next."""

from collections.abc import Sequence
from uuid import UUID

from django.db import transaction
from django.db.models import Case, DateTimeField, F, Q, QuerySet, When
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Least

from ..core.lifecycle import EXPIRED, Status
from .cancelling import cancel
from .database import record_alias, statements
from .portable import HAS_EXPIRED, IS_LOST
from .tables import TaskRecord


def expire(ids: Sequence[UUID]) -> None:
    """Cancel the records among these that have expired; skip those that others have locked."""
    with transaction.atomic(using=record_alias()), statements().lock_idle(ids) as free:
        cancel_expired(free.filter(Q(status=Status.QUEUED) | IS_LOST))


def cancel_expired(unbegun: "QuerySet[TaskRecord]") -> int:
    """Cancel those of these records that have expired; return how many."""
    return cancel(unbegun.filter(HAS_EXPIRED), EXPIRED)


def not_after_expiry(next_look: Case | CombinedExpression) -> Case:
    """Return the time of a record's next look, or of its expiry if that is earlier."""
    may_expire = Q(expires_at__isnull=False, n_attempts=0, cut_off_s=None)
    return Case(
        When(may_expire, then=Least(next_look, F("expires_at"))),
        default=next_look,
        output_field=DateTimeField(),
    )
