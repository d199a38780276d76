"""Checks of what callers of operations pass."""

import math
from datetime import timedelta

from django.core.exceptions import ImproperlyConfigured

from .. import conf
from ..errors import InvalidFilter


def known_queue(name: str) -> str:
    """Return the name of a queue. Raises InvalidFilter, with the names that there are."""
    try:
        return conf.current().queue(name).name
    except ImproperlyConfigured as error:
        raise InvalidFilter(str(error)) from None


def check_time(name: str, value: object) -> None:
    """Raise InvalidFilter unless a value is a timedelta of more than zero."""
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise InvalidFilter(f"{name} is {value!r}. Use a timedelta of more than zero.")


def check_number(name: str, value: object, *, least: float = 0, most: float = math.inf) -> None:
    """Raise InvalidFilter unless a value is a number in this range."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        upper = "on" if most == math.inf else f"to {most:g}"
        raise InvalidFilter(f"{name} is {value!r}. Use a number from {least:g} {upper}.")
