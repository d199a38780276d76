"""Draws dev.svg, the README's picture: what `manage.py lambda_tasks dev` prints.

Run `uv run --group test python -m docs.images.draw_dev` after a change of what `dev` prints.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from io import StringIO
from pathlib import Path
from urllib.request import urlopen

import django
from rich.console import Console

sys.path.append("example")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")
django.setup()

from tests.conftest import wait_for  # noqa: E402
from tests.newcomer import BLOCK, PAGES, Newcomer  # noqa: E402

CHARGE = """

@lambda_task
def charge(*, order_id: int, cents: int) -> None:
    raise ConnectionError("the payment service is away")
"""
WIDTH = 112


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        newcomer = Newcomer.with_first_task(Path(directory))
        for block in BLOCK.finditer(PAGES["README.md"]):
            if block["file"].startswith("shop/") or block["file"] == "mysite/urls.py":
                newcomer.write(block["file"], block["code"])
        newcomer.write("shop/tasks.py", CHARGE, add=True)
        newcomer.run("manage.py", "makemigrations", "shop")
        newcomer.run("manage.py", "migrate")
        with newcomer.developing():
            for title in ("Solaris", "Emma", "Kindred"):
                with urlopen(f"{newcomer.url}/order/?title={title}"):
                    pass
            newcomer.shell(
                "from shop.tasks import charge; charge.execute_on_commit(order_id=3, cents=1250)"
            )
            wait_for(lambda: sum("shop.tasks." in line for line in newcomer.lines) > 4)
        printed = "\n".join(line.rstrip() for line in newcomer.lines)
    printed = printed.replace(newcomer.url, "http://127.0.0.1:8000").replace(directory, ".")
    draw(without_djangos_start(printed.splitlines()))


def without_djangos_start(lines: Iterable[str]) -> Iterator[str]:
    """Leave out what `runserver` prints as it starts."""
    is_djangos = False
    for line in lines:
        is_djangos = is_djangos or line.startswith("Watching for file changes")
        if not is_djangos:
            yield line
        is_djangos = is_djangos and not line.startswith("For more information")


def draw(lines: Iterable[str]) -> None:
    console = Console(record=True, width=WIDTH, file=StringIO(), highlight=False)
    console.print("[bold]$ python manage.py lambda_tasks dev[/bold]")
    for line in lines:
        shown = line.replace("[", r"\[")
        shown = re.sub(r"(succeeded)", r"[green]\1[/green]", shown)
        shown = re.sub(r"(failed)", r"[red]\1[/red]", shown)
        console.print(shown)
    svg = console.export_svg(title="bookshop", unique_id="dev")
    (Path(__file__).parent / "dev.svg").write_text(svg)


if __name__ == "__main__":
    main()
