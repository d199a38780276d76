"""What the doctor has found last, for the pages, which ask AWS nothing themselves.

It is one row: an examination replaces what the last one has found.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
) -> None:
    """Keep what the doctor has found, as JSON values."""
    found = {"findings": findings, "n_findings": n_findings, "ignored": ignored, "queues": queues}
    rows = DoctorReport.objects.using(record_alias())
    rows.update_or_create(id=1, defaults={"at": Now(), **found})


@with_retries
def read_last() -> DoctorReport | None:
    """Return what the doctor has found last; None if nobody has asked it."""
    return DoctorReport.objects.using(record_alias()).filter(id=1).first()
