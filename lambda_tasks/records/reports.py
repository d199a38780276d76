"""What the doctor has found last, for the pages, which ask AWS nothing themselves.

It is one row: an examination replaces what the last one has found. One that got no answer of AWS
replaces no report that has answers, and notes only when and why it failed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db.models import Q

from .clock import Now
from .database import record_alias
from .retrying import with_retries
from .tables import DoctorReport


@with_retries
def keep(
    *,
    findings: Sequence[Mapping[str, Any]],
    n_findings: int,
    ignored: Sequence[str],
    queues: Mapping[str, Any],
    failure: str = "",
) -> None:
    """Keep what the doctor has found, as JSON values. `failure` is why AWS has answered nothing."""
    rows = DoctorReport.objects.using(record_alias())
    has_answers = Q(failure="") | Q(failed_at__isnull=False)
    if failure and rows.filter(has_answers, id=1).update(failed_at=Now(), failure=failure):
        return
    found = {"findings": findings, "n_findings": n_findings, "ignored": ignored, "queues": queues}
    defaults = {"at": Now(), **found, "failed_at": None, "failure": failure}
    rows.update_or_create(id=1, defaults=defaults)


@with_retries
def read_last() -> DoctorReport | None:
    """Return what the doctor has found last; None if nobody has asked it."""
    return DoctorReport.objects.using(record_alias()).filter(id=1).first()
