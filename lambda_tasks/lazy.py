"""Names of a package that are imported at their first use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from sys import modules
from typing import Any


def lazy_names(package: str, sources: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`. `sources` maps each name to its module in the package."""

    def get(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{sources[name]}"), name)
        setattr(modules[package], name, found)
        return found

    return get
