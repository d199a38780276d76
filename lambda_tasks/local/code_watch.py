"""A watch on the project's code: the files of its loaded modules, and those that lie beside them.

Other files count too, because the process that watches does not load what a change adds.
"""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
"""The names of directories with installed packages, which are not watched."""


class CodeWatch:
    """The files as they were at the last look."""

    def __init__(self) -> None:
        self._modified = _modification_times()

    def has_changed(self) -> bool:
        """Return whether a file was changed, added or removed since the last look.

        A file that is only loaded since then, from a directory that was not watched, is no change.
        """
        before, self._modified = self._modified, _modification_times()
        watched = {path.parent for path in before}
        added = {path for path in self._modified.keys() - before.keys() if path.parent in watched}
        return bool(added) or any(self._modified.get(path) != at for path, at in before.items())


def _modification_times() -> dict[Path, float]:
    """Return the modification time of each file of the project's code."""
    times: dict[Path, float] = {}
    for directory in _directories():
        for path in directory.glob("*.py"):
            try:
                times[path] = path.stat().st_mtime
            except OSError:
                continue  # an editor replaces it just now
    return times


def _directories() -> set[Path]:
    """Return the directories of loaded modules, and of the packages in them."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    loaded = {Path(file).absolute().parent for file in files if file}
    return {
        directory for each in loaded if not _is_installed(each) for directory in _packages(each)
    }


def _packages(directory: Path) -> Iterator[Path]:
    yield directory
    for marker in directory.glob("*/__init__.py"):
        yield from _packages(marker.parent)


def _is_installed(directory: Path) -> bool:
    return bool(INSTALLED & set(directory.parts)) or directory.is_relative_to(
        sysconfig.get_path("stdlib")
    )
