"""What type checkers know of a project's tasks, with django-stubs and django-tasks, and without.

`typed_project` names the error of each wrong line in a comment. A comment too many is an error too.
"""

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import lambda_tasks

pytest.importorskip("mypy")
pytest.importorskip("pyright")

PROJECT = Path(__file__).parent / "typed_project"
STUBS = ("django-stubs", "mypy_django_plugin")
TASKS = ("django_tasks",)
LIMIT_S = 600

environments = pytest.mark.parametrize(
    "without",
    [(), STUBS, TASKS, STUBS + TASKS],
    ids=["with all", "without django-stubs", "without django-tasks", "without both"],
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project in a directory of its own, outside of this repository."""
    return Path(shutil.copytree(PROJECT, tmp_path / "project"))


@pytest.fixture
def python(tmp_path: Path, without: tuple[str, ...]) -> Path:
    return _link_environment(tmp_path / "environment", without=without)


@environments
def test_mypy_agrees_with_every_line(project: Path, python: Path, without: tuple[str, ...]) -> None:
    if STUBS[0] in without:
        (project / "shop/wrong_names.py").unlink()
        options = ["--config-file=", "--strict"]
    else:
        options = ["--config-file=mypy.ini"]

    _check(project, "mypy", f"--python-executable={python}", *options)


@environments
def test_pyright_agrees_with_every_line(project: Path, python: Path) -> None:
    _check(project, "pyright", f"--pythonpath={python}")


def _link_environment(directory: Path, *, without: tuple[str, ...]) -> Path:
    """Return the Python of an environment with the packages of this one, without some of them."""
    venv.create(directory, symlinks=True)
    [packages] = directory.glob("lib/python*/site-packages")
    for installed in map(Path, site.getsitepackages()):
        for entry in installed.iterdir():
            # What a .pth file adds are checkouts, such as this one.
            if not entry.name.startswith((*without, "lambda_tasks")) and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
    (packages / "lambda_tasks").symlink_to(Path(lambda_tasks.__file__).parent)
    return directory / "bin/python"


def _check(project: Path, checker: str, *options: str) -> None:
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    # The plugin of django-stubs imports the project and the library.
    environment["PYTHONPATH"] = os.pathsep.join([str(project), str(PROJECT.parents[1])])
    files = ["shop"] if checker == "mypy" else []
    done = subprocess.run(
        [sys.executable, "-m", checker, *options, *files],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
