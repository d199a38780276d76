"""Numbers and times as the dashboard says them, in the reader's language."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from django.utils.formats import date_format, number_format
from django.utils.timezone import localtime
from django.utils.translation import gettext, ngettext

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

    StrPromise = StrOrPromise
else:
    StrPromise = str

NOTHING: Final = "\N{EN DASH}"
"""Stands for a number that there is not."""

MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400


def number(value: float | None) -> str:
    """Return a whole number with the separators of the language."""
    return (
        NOTHING
        if value is None
        else str(number_format(round(value), use_l10n=True, force_grouping=True))
    )


def share(value: float | None) -> str:
    """Return a share from 0 to 1 as per cent, with a digit more where it is small."""
    if value is None:
        return NOTHING
    digits = 1 if 0 < value < 0.1 else 0
    return f"{number_format(value * 100, decimal_pos=digits, use_l10n=True)} %"


def span(seconds: float | None) -> str:
    """Return a time span in the unit that people would use; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return gettext("%s ms") % number_format(round(seconds * 1000))
    if seconds < MINUTE_S:
        digits = 1 if seconds < 10 else 0
        return gettext("%s s") % number_format(seconds, decimal_pos=digits)
    if seconds < HOUR_S:
        return _two(gettext("%d min"), seconds // MINUTE_S, gettext("%d s"), seconds % MINUTE_S)
    if seconds < DAY_S:
        minutes = seconds % HOUR_S // MINUTE_S
        return _two(gettext("%d h"), seconds // HOUR_S, gettext("%d min"), minutes)
    days, hours = int(seconds // DAY_S), seconds % DAY_S // HOUR_S
    told = ngettext("%d day", "%d days", days)
    return _two(told, days, gettext("%d h"), hours if days < 10 else 0)


def _two(large: str, n_large: float, small: str, n_small: float) -> str:
    """Return a time span in two units, or in one where the smaller one would be 0."""
    return f"{large % n_large} {small % n_small}" if int(n_small) else large % n_large


def span_or_nothing(seconds: float | None) -> str:
    """Return a time span; a dash for None."""
    return span(seconds) or NOTHING


def ago(seconds: float | None) -> str:
    """Return how long ago something was; None is never."""
    if seconds is None:
        return gettext("never")
    return gettext("now") if seconds < 1 else gettext("%s ago") % span(seconds)


def since(value: datetime | None, now: datetime) -> str:
    """Return how long ago a moment was."""
    return ago(None if value is None else max((now - value).total_seconds(), 0.0))


def moment_label(value: datetime, length: timedelta) -> str:
    """Return the label of a moment on a chart of this length."""
    local = localtime(value)
    if length <= timedelta(days=1):
        return str(date_format(local, "H:i"))
    return str(date_format(local, "D H:i"))
