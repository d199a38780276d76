"""What pages show of the doctor's last report: what is wrong, since when it is known, the fix.

No page asks AWS for it: the doctor has, when somebody called it.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.http import HttpRequest
from django.utils.translation import gettext, ngettext, pgettext

from .. import operations
from ..records.tables import DoctorReport
from . import pages, words

OLD: Final = timedelta(days=1)
"""The age from which on a page says that things may have changed since."""

MAX_SHOWN: Final = 20
"""The most findings that a page lists; the command shows all."""

BADGES: Final = {"error": "failed", "warning": "retrying", "info": "waiting"}
"""The kind of badge of each severity."""

Findings = Sequence[Mapping[str, Any]]
"""Findings as JSON, as the report has them."""


def shown(request: HttpRequest, report: DoctorReport | None) -> dict[str, Any]:
    """Return what the overview shows of the report; nothing to who may not see it."""
    may_view = _may_view(request)
    found = _described(report, report.findings) if may_view and report is not None else None
    return {"may_view_doctor": may_view, "doctor": found}


def of_queue(request: HttpRequest, name: str) -> dict[str, Any]:
    """Return what the page of a queue shows of it: its findings, and how SQS has the queue."""
    report = _report(request)
    context: dict[str, Any] = {"may_view_doctor": _may_view(request), "doctor": None}
    if report is not None:
        about = [each for each in report.findings if _is_about(each, name)]
        context["doctor"] = _described(report, about)
        context["compared"] = [_compared(each) for each in report.queues.get(name, ())]
        context["ensure"] = f"manage.py lambda_tasks queues ensure {name}"
    return context


def n_wrong(request: HttpRequest, names: Collection[str]) -> dict[str, int]:
    """Return how many errors and warnings the report has about each of these queues."""
    report = _report(request)
    findings = [] if report is None else [each for each in report.findings if _is_wrong(each)]
    return {name: sum(_is_about(each, name) for each in findings) for name in names}


def _may_view(request: HttpRequest) -> bool:
    return pages.may_view(request, "doctorreport")


def _report(request: HttpRequest) -> DoctorReport | None:
    return operations.last_report() if _may_view(request) else None


def _is_about(finding: Mapping[str, Any], queue: str) -> bool:
    """Return whether a finding is about a queue, or about what consumes it."""
    where: str = finding["where"]
    return where == f"queue {queue}" or where.startswith(f"mapping of queue {queue} to ")


def _is_wrong(finding: Mapping[str, Any]) -> bool:
    return bool(finding["is_checked"]) and finding["severity"] != "info"


def _described(report: DoctorReport, findings: Findings) -> dict[str, Any]:
    wrong = [each for each in findings if _is_wrong(each)]
    hints = [each for each in findings if each["is_checked"] and each["severity"] == "info"]
    unchecked = [each for each in findings if not each["is_checked"]]
    return {
        "at": report.at,
        "ago": _ago(report.at),
        "is_old": _age(report.at) >= OLD,
        "failed_ago": None if report.failed_at is None else _ago(report.failed_at),
        "failure": report.failure,
        "counted": _counted(findings),
        "has_errors": any(each["severity"] == "error" for each in wrong),
        "wrong": [_row(each) for each in wrong[:MAX_SHOWN]],
        "hints": [_row(each) for each in hints[:MAX_SHOWN]],
        "unchecked": _by_reason(unchecked),
        "n_more": max(len(wrong) - MAX_SHOWN, 0) + max(len(hints) - MAX_SHOWN, 0),
        "ignored": ", ".join(report.ignored),
    }


def _age(at: datetime) -> timedelta:
    return max(datetime.now(UTC) - at, timedelta())


def _ago(at: datetime) -> str:
    return words.ago(_age(at).total_seconds())


def _compared(queue: Mapping[str, Any]) -> dict[str, Any]:
    different = [
        {
            "attribute": each["attribute"],
            "live": _written(each["live"]),
            "wanted": _written(each["wanted"]),
        }
        for each in queue["differences"]
    ]
    return {**queue, "differences": different}


def _written(value: Any) -> str:
    if value is None:
        return gettext("not set")
    return value if isinstance(value, str) else json.dumps(value)


def _counted(findings: Findings) -> str:
    """Return how many findings there are of each severity, in words; "" for none."""
    n = {
        severity: sum(each["is_checked"] and each["severity"] == severity for each in findings)
        for severity in BADGES
    }
    told = {
        "error": ngettext("%d error", "%d errors", n["error"]),
        "warning": ngettext("%d warning", "%d warnings", n["warning"]),
        "info": ngettext("%d hint", "%d hints", n["info"]),
    }
    return ", ".join(told[severity] % number for severity, number in n.items() if number)


def _row(finding: Mapping[str, Any]) -> dict[str, Any]:
    severity = {
        "error": pgettext("severity", "error"),
        "warning": pgettext("severity", "warning"),
        "info": pgettext("severity", "hint"),
    }
    return {
        **finding,
        "severity_name": severity[finding["severity"]],
        "badge": BADGES[finding["severity"]],
    }


def _by_reason(findings: Findings) -> list[dict[str, Any]]:
    """Return what could not be checked by its reason: one missing permission leaves out many."""
    reasons: dict[str, list[str]] = {}
    for each in findings:
        reasons.setdefault(f"{each['where']}: {each['found']}", []).append(each["id"])
    found = [{"reason": reason, "ids": ", ".join(ids)} for reason, ids in reasons.items()]
    return found[:MAX_SHOWN]
