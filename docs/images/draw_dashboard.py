"""Draws the dashboard's pages: light and dark, wide and narrow, in three themes of the admin.

Run `uv run --group test --group browser python -m docs.images.draw_dashboard DIRECTORY` after a
change of them, and look at the pictures. It fails where a page is wider than its window, or breaks
the strict content security policy of Django's own theme. It also draws those of the documentation.
"""

import asyncio
import base64
import math
import os
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4
from wsgiref.simple_server import make_server

from docs.images import draw_admin
from docs.images.draw_admin import LIST, Silent, Tab

THEMES = {"plain": [], "unfold": ["unfold"], "jazzmin": ["jazzmin"]}
"""The themes, and the apps that each puts before Django's admin."""

WIDTHS = {"wide": 1440, "narrow": 390}
IN_DOCS = {
    "plain-overview-wide-light": "dashboard.webp",
    "plain-function-wide-dark": "dashboard-function.webp",
}
DOCS_HEIGHT = 1000
QUEUES = "/admin/lambda_tasks/queuestate/"


def main() -> None:
    if len(sys.argv) == 2:
        for theme in THEMES:
            command = [sys.executable, "-m", "docs.images.draw_dashboard", sys.argv[1], theme]
            print(theme, "has failed" if subprocess.run(command, check=False).returncode else "")
        return
    if len(sys.argv) < 3:
        sys.exit("Name the directory for the pictures; then, if need be, one theme and its pages.")
    directory, theme, only = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        draw_admin.settings.INSTALLED_APPS[:0] = THEMES[theme]
        draw_admin.settings.MIDDLEWARE.insert(1, "django.middleware.locale.LocaleMiddleware")
        draw_admin.settings.LAMBDA_TASKS_LOG_GROUP = "/aws/lambda/shop"
        if theme != "plain":
            draw_admin.POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: https:"
        draw_admin.set_up(Path(own))
        from django.contrib.staticfiles.handlers import StaticFilesHandler
        from django.core.handlers.wsgi import WSGIHandler

        pages = {name: url for name, url in fill().items() if not only or name in only}
        with make_server(
            "127.0.0.1", 0, StaticFilesHandler(WSGIHandler()), handler_class=Silent
        ) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            base = f"http://127.0.0.1:{server.server_port}"
            wrong = asyncio.run(draw(base, pages, directory, theme, Path(own) / str(uuid4())))
            server.shutdown()
    sys.exit("\n".join(wrong) or 0)


def fill() -> dict[str, str]:
    """Store records, and what ticks tell of them; return the addresses of the pages."""
    from asgiref.sync import async_to_sync

    from lambda_tasks import operations, runtime
    from lambda_tasks.operations import figures
    from lambda_tasks.records import rollups

    draw_admin.tick()
    records = draw_admin.fill()
    more()
    async_to_sync(runtime.current().relay_shifts.take)(always=True)
    rollups.roll_up(timedelta(days=30), enough_s=math.inf)
    async_to_sync(runtime.current().round.run)()
    operations.pause_queue("reports", by="anna", reason="The printer moves")
    operations.peek_dead_letters = dead_letters
    errors = figures.errors()
    flow = workflow()
    ended, waiting, packed = functions()
    schedule = f"{draw_admin.SCHEDULES}nightly-invoices/"
    return {
        "index": "/admin/lambda_tasks/",
        "overview": f"{LIST}overview/",
        "runs": LIST,
        "run": f"{LIST}{records['failed']}/change/",
        "running": f"{LIST}{records['running']}/change/",
        "replay": f"{LIST}{records['failed']}/replay/",
        "error": f"{LIST}errors/{errors[0].id}/" if errors else LIST,
        "queues": QUEUES,
        "queue": f"{QUEUES}reports/change/",
        "tasks": f"{LIST}tasks/",
        "task": f"{LIST}tasks/shop.tasks.send_confirmation/",
        "workflows": "/admin/lambda_tasks/workflow/",
        "workflow": f"/admin/lambda_tasks/workflow/{flow}/change/",
        "workflow-of-function": f"/admin/lambda_tasks/workflow/{packed}/change/",
        "function": f"{LIST}{ended}/change/",
        "function-waits": f"{LIST}{waiting}/change/",
        "ask-go-on": f"{LIST}{ended}/change/",
        "ask-retry": f"{LIST}errors/{errors[0].id}/" if errors else LIST,
        "trial": f"{LIST}trial/?id={records['failed']}&id={records['running']}",
        "schedules": draw_admin.SCHEDULES,
        "schedule": f"{schedule}change/",
        "backfill": f"{schedule}backfill/",
        "dead-letters": f"{QUEUES}mail/dead-letters/",
        "runs-de": f"{LIST}?q=order&broken=yes",
        "overview-de": f"{LIST}overview/",
        "function-de": f"{LIST}{ended}/change/",
        "overview-ja": f"{LIST}overview/",
        "function-ja": f"{LIST}{ended}/change/",
    }


CLICKS = {"ask-go-on": "button[name=step]", "ask-retry": "button[value=retry]"}
"""What is clicked on a page, so that the page behind it is drawn."""

LANGUAGES = {"de": "de", "ja": "ja"}
"""The languages of pages, by the end of their names; the others are in English."""


def more() -> None:
    """Store an hour of records, with some minutes in which a queue was stuck."""
    import random

    from lambda_tasks.core.fingerprints import fingerprint
    from lambda_tasks.models import TaskRecord

    chance, now = random.Random(11), datetime.now(UTC)
    error = fingerprint("shop.tasks.AddressBounces", draw_admin.TRACEBACK)
    tasks = {
        "shop.tasks.send_confirmation": "mail",
        "shop.tasks.reserve_stock": "default",
        "shop.tasks.print_invoice": "reports",
    }
    rows = []
    for number in range(900):
        name = chance.choice(list(tasks))
        at = now - timedelta(seconds=3300 * (number / 900) ** 0.8 + 200)
        is_stuck = 25 < (now - at).total_seconds() / 60 < 31
        waits = chance.expovariate(1 / 100) if is_stuck else chance.expovariate(2)
        failed = name.endswith("confirmation") and chance.random() < 0.06
        began = at + timedelta(seconds=waits)
        end = {
            "status": "FAILED", "exception_class": "shop.tasks.AddressBounces",
            "error_id": error.id, "broken_since": now,
            "traceback": draw_admin.TRACEBACK,
        } if failed else {"status": "SUCCESS", "result": 1}  # fmt: skip
        rows.append(TaskRecord(
            task_name=name, queue=tasks[name], kwargs={"order_id": 9000 - number}, enqueued_at=at,
            sent_at=at, start_time=began, n_attempts=1, worker_ids="2026/11/27/[7]f00dcafe\n",
            end_time=min(began + timedelta(seconds=chance.expovariate(1)), now), **end,
        ))  # fmt: skip
    TaskRecord.objects.bulk_create(rows)


def workflow() -> Any:
    """Store a workflow, some of whose steps have ended."""
    from shop.tasks import print_invoice, reserve_stock, send_confirmation

    from lambda_tasks.models import TaskRecord
    from lambda_tasks.workflows import group
    from lambda_tasks.workflows import workflow as make_workflow

    first = reserve_stock.step(order_id=1)
    many = group(reserve_stock.step(order_id=n).after(first) for n in range(12))
    invoice = print_invoice.step(order_id=2, copies=1).after(many)
    flow = make_workflow("ship-orders", send_confirmation.step(order_id=3).after(invoice))
    run = flow.execute_on_commit()
    steps = TaskRecord.objects.filter(workflow_id=run.id).order_by("step")
    ids = list(steps.values_list("pk", flat=True))
    TaskRecord.objects.filter(pk__in=ids[:9]).update(status="SUCCESS")
    return run.id


def functions() -> tuple[Any, Any, Any]:
    """Store a durable function that has failed, one that waits, and what that one has waited for.

    Return the ids of their last runs, and of the workflow.
    """
    from shop.gifts import pack

    from lambda_tasks.core.message import CALL_HEADER
    from lambda_tasks.models import StepCheckpoint, TaskRecord, Workflow
    from lambda_tasks.workflows import group
    from lambda_tasks.workflows import workflow as make_workflow

    now, hour = datetime.now(UTC), timedelta(hours=1)

    def run(call: Any, at: datetime, took: timedelta, **fields: Any) -> Any:
        base = {
            "task_name": "shop.gifts.send_gift", "kwargs": {"order_id": 4711, "copies": 2},
            "queue": "default", "status": "SUCCESS", "enqueued_at": at, "start_time": at,
            "end_time": at + took, "n_attempts": 1, "headers": {CALL_HEADER: str(call)},
            "root_id": call, "worker_ids": "2026/11/27/[7]f00dcafe v41\n",
        }  # fmt: skip
        return TaskRecord.objects.create(**base | fields)

    def steps(call: Any, *rows: Any) -> None:
        for number, (name, kind, value, began, ended, *error) in enumerate(rows, 1):
            StepCheckpoint.objects.create(
                call_id=call, name=name, kind=kind, number=number, value=value, began_at=began,
                ended_at=ended, error=error[0] if error else None,
                function="shop.gifts:refund" if kind == "on_failure" else "",
            )  # fmt: skip

    refused = {
        "class": "shop.gifts:CardRefused", "args": ["The card of order 4711 has expired."],
        "attributes": {},
    }  # fmt: skip
    second, ended, start = timedelta(seconds=1), uuid4(), now - 46 * hour
    first = run(ended, start, 3 * second, id=ended)
    middle = run(ended, start + hour, second, retry_of=first.pk, n_continues=1)
    last = run(
        ended, start + 45 * hour, 2 * second, retry_of=middle.pk, n_continues=2, status="FAILED",
        traceback=draw_admin.TRACEBACK, exception_class="shop.tasks.AddressBounces",
    )  # fmt: skip
    steps(
        ended,
        ("pay by card", "step", None, start + second, start + 2 * second, refused),
        ("pay by invoice", "step", "receipt-4711", start + 2 * second, start + 3 * second),
        ("pack", "gather", {"total": 2, "failed": 0, "values": ["4711/0", "4711/1"]},
         start + 3 * second, start + hour),
        ("approval", "wait_for", True, start + hour, start + 9 * hour),
        ("delivery", "sleep", (start + 45 * hour).isoformat(), start + 9 * hour,
         start + 45 * hour + second),
    )  # fmt: skip
    waiting, start = uuid4(), now - 5 * hour
    before = run(waiting, start, 2 * second, id=waiting)
    parked = run(
        waiting, start + 2 * second, second, retry_of=before.pk, n_continues=1, status="QUEUED",
        start_time=None, end_time=None, run_after=now + 67 * hour, look_at=now + 67 * hour,
        n_attempts=0, worker_ids=None,
    )  # fmt: skip
    steps(
        waiting,
        ("pay", "step", "receipt-4712", start, start + second),
        ("refund", "on_failure", {"order_id": 4712, "receipt": "receipt-4712"}, start, None),
        ("pack", "gather", {"total": 2, "failed": 0, "values": ["4712/0", "4712/1"]},
         start + 2 * second, start + 2 * hour),
        ("approval", "wait_for", (now + 67 * hour).isoformat(), start + 2 * hour, None),
    )  # fmt: skip
    members = group(pack.step(order_id=4712, copy=number) for number in range(2))
    packed = make_workflow("send_gift: pack", members).execute_on_commit().id
    TaskRecord.objects.filter(workflow_id=packed).update(
        status="SUCCESS", start_time=start + hour, end_time=start + hour, result="4712/0"
    )
    Workflow.objects.filter(pk=packed).update(
        call_id=waiting, status="SUCCESS", ended_at=start + 2 * hour
    )
    return last.pk, parked.pk, packed


def dead_letters(name: str, **_: Any) -> list[Any]:
    """Return some dead letters, as SQS would."""
    from lambda_tasks.operations import DeadLetter

    return [
        DeadLetter(
            queue=name, message_id=str(uuid4()), task_name="shop.tasks.send_confirmation",
            invocation_id=uuid4(), is_direct=False, status="FAILED" if number < 2 else "QUEUED",
            args=[], kwargs={"order_id": 4700 + number}, refused=None,
            error="AddressBounces: ada@bounces.example", receives=5,
            sent_at=datetime.now(UTC) - timedelta(minutes=7 * number + 3),
        )
        for number in range(5)
    ]  # fmt: skip


async def draw(
    base: str, pages: dict[str, str], directory: Path, theme: str, profile: Path
) -> list[str]:
    """Write a picture of each page in each form; return what is wrong with them."""
    wrong = []
    async with draw_admin.browser(profile) as tab:
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            await tab.ask("Emulation.setEmulatedMedia", features=media)
            for form, width in WIDTHS.items():
                await tab.ask(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=900, deviceScaleFactor=1, mobile=form == "narrow",
                )  # fmt: skip
                for name, url in pages.items():
                    language = LANGUAGES.get(name.rpartition("-")[2], "en")
                    headers = {"Accept-Language": language}
                    await tab.ask("Network.setExtraHTTPHeaders", headers=headers)
                    await tab.open(base + url)
                    if name in CLICKS:
                        await tab.click(CLICKS[name])
                    if theme == "jazzmin":
                        theme_of = f"document.documentElement.dataset.bsTheme = '{scheme}'"
                        await tab.run(theme_of)
                    shown = await tab.run("document.documentElement.scrollWidth")
                    if shown > width:
                        wrong.append(f"{theme}: {name} is {shown} of {width} px wide")
                    await picture(tab, directory / f"{theme}-{name}-{form}-{scheme}.png", width)
        if theme == "plain":
            wrong += sorted(set(tab.complaints))
    return wrong


async def picture(tab: Tab, file: Path, width: int) -> None:
    """Write a picture of the page that is shown; and that of the documentation, if it is one."""
    height = await tab.run("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "scale": 1, "width": width, "height": height}
    taken = await tab.ask(
        "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
    )
    file.write_bytes(base64.b64decode(taken["result"]["data"]))  # noqa: ASYNC240
    if file.stem in IN_DOCS:
        clip["height"] = min(height, DOCS_HEIGHT)
        taken = await tab.ask(
            "Page.captureScreenshot", format="webp", quality=70, captureBeyondViewport=True,
            clip=clip,
        )  # fmt: skip
        drawn = base64.b64decode(taken["result"]["data"])
        Path(__file__).with_name(IN_DOCS[file.stem]).write_bytes(drawn)


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")
if __name__ == "__main__":
    main()
