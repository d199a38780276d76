"""Virtual environments for peers, made with uv at their first use and kept.

django-lambda-tasks has the import package `lambda_tasks` too, so the two can't share one.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent / ".environments"

DJANGO_LAMBDA_TASKS: Final = "0.8.1"


def here() -> Path:
    """The Python of the environment that this runs in."""
    return Path(sys.executable)


def django_lambda_tasks() -> Path:
    """The Python of one with django-lambda-tasks, and Django and psycopg as they are here."""
    same = [f"{name}=={version(name)}" for name in ("django", "psycopg", "psycopg-binary")]
    name = f"django-lambda-tasks-{DJANGO_LAMBDA_TASKS}"
    return _with(name, [f"django-lambda-tasks=={DJANGO_LAMBDA_TASKS}", *same])


def _with(name: str, requirements: Sequence[str]) -> Path:
    wanted = "\n".join([sys.version, *requirements])
    directory = DIRECTORY / f"{name}-{sha256(wanted.encode()).hexdigest()[:8]}"
    python, complete = directory / "bin" / "python", directory / "complete"
    if not complete.exists():
        print(f"Installing {' '.join(requirements)} into {directory} ...", file=sys.stderr)
        _uv("venv", "--clear", "--python", sys.executable, str(directory))
        _uv("pip", "install", "--python", str(python), *requirements)
        complete.write_text(wanted)
    return python


def _uv(*arguments: str) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise SystemExit("uv is needed to install the peers: pip install uv")
    subprocess.run([uv, *arguments, "--quiet"], check=True)
