"""The versions of what runs here. Importing this loads nothing else of the package."""

import platform
from importlib.metadata import PackageNotFoundError, version

import django


def versions() -> dict[str, str]:
    """Return the versions of the library, Django and Python."""
    try:
        library = version("lambda-tasks")
    except PackageNotFoundError:
        library = "unknown"
    return {
        "lambda_tasks": library,
        "django": django.get_version(),
        "python": platform.python_version(),
    }
