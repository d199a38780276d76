"""Fetches Django's tests."""

import fcntl
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import django

OLDEST = "Django>=6.0,<6.1"
"""The first that has the framework: for those that have not."""


def requirement() -> str:
    """Which Django's tests belong to the one that is installed."""
    return f"Django=={django.get_version()}" if django.VERSION >= (6, 0) else OLDEST


def fetch(directory: Path, archives: Path) -> str:
    """Unpack the package `tasks` of Django's tests here; return what it was taken from."""
    archive = _archive(archives)
    package = directory / "tasks"
    package.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            content = tar.extractfile(member) if path.parts[1:3] == ("tests", "tasks") else None
            if content is not None:
                (package / path.name).write_bytes(content.read())
    return archive.name


def _archive(directory: Path) -> Path:
    """Download it, unless another process has: pip builds the package to know its metadata."""
    with (directory / "django.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(directory.glob("*.tar.gz")):
            _download(directory)
    [archive] = directory.glob("*.tar.gz")
    return archive


def _download(directory: Path) -> None:
    subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
            "--ignore-requires-python", "--disable-pip-version-check", "--dest", str(directory),
            requirement(),
        ],
        check=True,
    )  # fmt: skip
