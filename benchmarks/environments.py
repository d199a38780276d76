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


def celery() -> Path:
    """The Python of one with Celery."""
    return _with("celery", ["celery[sqs]"])


def taskiq() -> Path:
    """The Python of one with taskiq."""
    return _with("taskiq", ["taskiq-aio-sqs"])


def powertools() -> Path:
    """The Python of one with AWS Lambda Powertools."""
    return _with("powertools", ["aws-lambda-powertools"])


def django_database_task() -> Path:
    """The Python of one with django-database-task, which needs 3.12."""
    psycopg = [f"{name}=={version(name)}" for name in ("psycopg", "psycopg-binary")]
    python = sys.executable if sys.version_info >= (3, 12) else _of_pyenv("3.12") or "3.12"
    return _with("django-database-task", ["django-database-task[sqs]", *psycopg], python=python)


def peer(name: str, requirements: Sequence[str]) -> Path:
    """The Python of one with a worker's peer, and with Django and psycopg as they are here."""
    same = [f"{each}=={version(each)}" for each in ("django", "psycopg", "psycopg-binary")]
    return _with(name, [*requirements, *same])


def _with(name: str, requirements: Sequence[str], *, python: str = sys.executable) -> Path:
    wanted = "\n".join([sys.version, python, *requirements])
    directory = DIRECTORY / f"{name}-{sha256(wanted.encode()).hexdigest()[:8]}"
    installed, complete = directory / "bin" / "python", directory / "complete"
    if not complete.exists():
        print(f"Installing {' '.join(requirements)} into {directory} ...", file=sys.stderr)
        _uv("venv", "--clear", "--python", python, str(directory))
        _uv("pip", "install", "--compile-bytecode", "--python", str(installed), *requirements)
        complete.write_text(wanted)
    return installed


def _of_pyenv(wanted: str) -> str | None:
    """One that pyenv has; uv looks elsewhere, and would download another."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return max(map(str, root.glob(f"versions/{wanted}*/bin/python")), default=None)


def _uv(*arguments: str) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise SystemExit("uv is needed to install the peers: pip install uv")
    subprocess.run([uv, *arguments, "--quiet"], check=True)
