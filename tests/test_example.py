"""The example: the README's first command, and a gift that takes weeks."""

import os
import subprocess
import sys
from pathlib import Path

MANAGE = Path(__file__).parents[1] / "example" / "manage.py"


def _manage(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LAMBDA_TASKS", "DJANGO_", "AWS_"))
    }
    return subprocess.run(
        [sys.executable, str(MANAGE), *arguments],
        env=environment | {"NO_COLOR": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_demo_accounts_for_every_task() -> None:
    done = _manage("demo", "--orders", "48")

    assert done.returncode == 0, done.stdout + done.stderr
    words = done.stdout.split()
    # Of 48 orders 5 are rolled back; 21 through the classic view make three tasks, 22 make two.
    assert "Every task is accounted for" in done.stdout
    assert words[words.index("rolled") :][:4] == ["rolled", "back", "│", "5"]
    assert words[words.index("sent") :][:3] == ["sent", "│", "107"]


def test_the_demo_refuses_what_it_can_not_do() -> None:
    done = _manage("demo", "--orders", "0")

    assert done.returncode != 0
    assert "--orders is 0. Use 1 or more." in done.stderr


def test_the_gifts_of_the_example_pass_its_own_tests() -> None:
    done = _manage("test", "shop")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 2 tests" in done.stderr
