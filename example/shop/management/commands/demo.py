"""`manage.py demo`: the main job from end to end, with figures."""

import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from demo.accounts import Accounts, close_books, count_finished
from demo.storefront import Sales, sell
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

PATIENCE_S = 60.0


class Command(BaseCommand):
    help = "Place orders, send their tasks through SQS, run them in the Lambda handler, count."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--orders", type=int, default=240, help="how many (default: 240)")
        parser.add_argument("--serve", action="store_true", help="then serve the page on port 8000")

    def handle(self, *args: Any, orders: int, serve: bool, **options: Any) -> None:
        if orders < 1:
            raise CommandError(f"--orders is {orders}. Use 1 or more.")
        console = Console()
        call_command("migrate", verbosity=0)
        console.print(
            f"{orders} orders through a classic and an async view; their tasks go through SQS on "
            "loopback to the Lambda handler in another process.\n"
        )
        started = time.monotonic()
        with _lambda_function():
            sales = _run(console, orders)
            accounts = close_books(sales)
            console.print(_table(accounts, orders, time.monotonic() - started))
            if accounts.problems:
                raise CommandError("Unaccounted for: " + "; ".join(accounts.problems) + ".")
            console.print("[green]Every task is accounted for: none lost, none run twice.[/green]")
            if serve:
                call_command("runserver", "127.0.0.1:8000", "--noreload")


def _run(console: Console, orders: int) -> Sales:
    sales = Sales()
    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(40),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        placed = progress.add_task("orders", total=orders)
        ran = progress.add_task("tasks run", total=None)
        for count in sell(orders, sales):
            progress.update(placed, completed=count)
            progress.update(ran, completed=count_finished())
        progress.update(ran, total=len(sales.invocations))
        _wait_for_the_rest(progress, ran, len(sales.invocations))
    return sales


def _wait_for_the_rest(progress: Progress, ran: Any, total: int) -> None:
    """Until all have run, or nothing has moved for a while; the books tell what is missing."""
    finished, moved_at = -1, time.monotonic()
    while finished < total and time.monotonic() - moved_at < PATIENCE_S:
        now = count_finished()
        if now != finished:
            finished, moved_at = now, time.monotonic()
        progress.update(ran, completed=now)
        time.sleep(0.1)


@contextmanager
def _lambda_function() -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "demo.function"],
        cwd=settings.BASE_DIR,
        stdin=subprocess.PIPE,
        # Ctrl+C at a terminal is for this process, which closes the pipe.
        start_new_session=True,
    )
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(timeout=30)


def _table(accounts: Accounts, orders: int, seconds: float) -> Table:
    table = Table(show_header=False, title="What became of it", title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows: dict[str, Any] = {
        "orders placed": orders,
        "orders rolled back": accounts.rolled_back_orders,
        "tasks sent": accounts.sent,
        "SendMessageBatch requests of the views": accounts.requests,
        "messages per request": f"{accounts.messages_per_request:.1f}",
        "failed on purpose": accounts.failed_on_purpose,
        "steps done": accounts.steps,
        **{f"records {status}": count for status, count in sorted(accounts.by_status.items())},
        "seconds": f"{seconds:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table
