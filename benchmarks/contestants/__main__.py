"""`python benchmarks/contestants NAME`: serves the functions of one module here.

Each line of standard input is a job, {"do": function, ...its parameters}, and each line of
standard output is what the function returned. Ends with its input.
"""

import importlib
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    # At the end, so that `lambda_tasks` is the one that this environment has installed.
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    # Whatever a library prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    contestant = _load(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(_perform(contestant, json.loads(line))), file=answers, flush=True)
    if hasattr(contestant, "close"):
        contestant.close()


def _load(name: str) -> ModuleType:
    if "DJANGO_SETTINGS_MODULE" in os.environ:
        import django

        django.setup()
    return importlib.import_module(f"benchmarks.contestants.{name}")


def _perform(contestant: ModuleType, job: dict[str, Any]) -> Any:
    action = job.pop("do")
    if action == "versions":
        return {name: _version(name) for name in job["of"]}
    return getattr(contestant, action)(**job)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
