"""The settings that the records read. They can't import `conf`, which is above them."""

from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed


@cache
def read(name: str, default: object) -> Any:
    """Return a setting, which `conf` checks, or the default where it is not set.

    Django remembers the settings that are set, and looks for the others anew each time.
    """
    return getattr(settings, name, default)


def _forget(**_: object) -> None:
    read.cache_clear()


setting_changed.connect(_forget)
