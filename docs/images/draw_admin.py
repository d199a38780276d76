"""Draws the admin's pages, light and dark, wide and narrow, by a headless Chromium.

Run `uv run --group test python -m docs.images.draw_admin DIRECTORY` after a change of the admin,
and look at them. It needs the command `chromium`. It fails where a page breaks the strict content
security policy, or is wider than its window. It also draws `admin.webp`, in the documentation.
"""

import asyncio
import base64
import json
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from wsgiref.simple_server import WSGIRequestHandler, make_server

import aiohttp

sys.path.append("example")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")

from bookshop import settings

PICTURE = Path(__file__).with_name("admin.webp")
PICTURE_HEIGHT = 640
WIDTHS = {"wide": 1280, "narrow": 390}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'"
)
LIST = "/admin/lambda_tasks/taskrecord/"
SCHEDULES = "/admin/lambda_tasks/schedulestate/"
PATIENCE_S = 60


def operator(get_response: Any) -> Any:
    """Return a middleware by which every request is the superuser's, under a strict policy."""

    def respond(request: Any) -> Any:
        from django.contrib.auth.models import User

        request.user = User.objects.get()
        request._dont_enforce_csrf_checks = True
        response = get_response(request)
        response["Content-Security-Policy"] = POLICY
        return response

    return respond


class Silent(WSGIRequestHandler):
    """A request handler that logs nothing."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Tab:
    """A tab of the browser, driven by the DevTools protocol."""

    socket: Any
    complaints: list[str] = field(default_factory=list)
    _n_sent: int = 0

    async def ask(self, method: str, **params: Any) -> Any:
        self._n_sent += 1
        await self.socket.send_json({"id": self._n_sent, "method": method, "params": params})
        return await self._receive(lambda each: each.get("id") == self._n_sent)

    async def open(self, url: str) -> None:
        await self.ask("Page.navigate", url=url)
        await self._receive(lambda each: each.get("method") == "Page.loadEventFired")
        await asyncio.sleep(0.3)  # what the admin's own scripts do after the load

    async def click(self, selector: str) -> None:
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")
        await self._receive(lambda each: each.get("method") == "Page.loadEventFired")
        await asyncio.sleep(0.3)

    async def run(self, script: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"]["result"].get("value")

    async def _receive(self, is_it: Any) -> Any:
        while True:
            message = json.loads((await self.socket.receive(timeout=PATIENCE_S)).data)
            if message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["source"] != "network":
                    self.complaints.append(entry["text"])
            if is_it(message):
                return message


@asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Tab]:
    process = await asyncio.create_subprocess_exec(
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--remote-debugging-port=0", f"--user-data-dir={directory}", "about:blank",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while b"DevTools listening" not in (line := await process.stderr.readline()):
            assert line, "Chromium has ended."
        port = line.decode().rsplit(":", 1)[1].split("/")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as found:
                (page,) = [each for each in await found.json() if each["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Page", "Log", "Runtime", "Network"):
                    await tab.ask(f"{domain}.enable")
                yield tab
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def draw(base: str, pages: dict[str, str], directory: Path, profile: Path) -> list[str]:
    """Write a picture of each page in each form; return what is wrong with them."""
    wrong = []
    async with browser(profile) as tab:
        for scheme in ("light", "dark"):
            media = [{"name": "prefers-color-scheme", "value": scheme}]
            await tab.ask("Emulation.setEmulatedMedia", features=media)
            for form, width in WIDTHS.items():
                await tab.ask(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=800, deviceScaleFactor=1, mobile=form == "narrow",
                )  # fmt: skip
                for name, url in pages.items():
                    await tab.open(base + url)
                    if name.startswith("ask"):
                        await tab.click(".lt-actions button")
                    shown = await tab.run("document.documentElement.scrollWidth")
                    cut = await tab.run(
                        "[...document.querySelectorAll('#changelist .results')]"
                        ".map(each => each.scrollWidth - each.clientWidth).find(by => by > 0) || 0"
                    )
                    if shown > width or (cut and form == "wide"):
                        wrong.append(f"{name} is {shown} of {width} px wide, {cut} px cut off")
                    picture = await tab.ask(
                        "Page.captureScreenshot", format="png", captureBeyondViewport=True,
                        clip=await tab.run(
                            "({x: 0, y: 0, scale: 1, width: document.documentElement.clientWidth,"
                            " height: document.documentElement.scrollHeight})"
                        ),
                    )  # fmt: skip
                    file = directory / f"{name}-{form}-{scheme}.png"
                    file.write_bytes(base64.b64decode(picture["result"]["data"]))
                    if file.stem == "list-wide-light":
                        clip = {
                            "x": 0,
                            "y": 0,
                            "scale": 1,
                            "width": width,
                            "height": PICTURE_HEIGHT,
                        }
                        picture = await tab.ask(
                            "Page.captureScreenshot", format="webp", quality=70, clip=clip
                        )
                        PICTURE.write_bytes(base64.b64decode(picture["result"]["data"]))
        return wrong + sorted(set(tab.complaints))


def set_up(directory: Path) -> None:
    settings.DATABASES["default"]["NAME"] = directory / "shop.sqlite3"
    settings.MIDDLEWARE.append("docs.images.draw_admin.operator")
    settings.LOGGING["root"]["level"] = "ERROR"
    settings.LOGGING["loggers"]["django"]["level"] = "ERROR"
    settings.LAMBDA_TASKS_QUEUES = {
        "default": {"database": True}, "mail": {"database": True}, "reports": {"database": True},
    }  # fmt: skip
    settings.LAMBDA_TASKS_EAGER = False
    every = {"task": "shop.tasks.reserve_stock", "kwargs": {"order_id": 1}}
    settings.LAMBDA_TASKS_SCHEDULES = {
        "nightly-invoices": {**every, "cron": "30 2 * * *", "timezone": "Europe/Berlin"},
        "office-hours": {**every, "cron": "*/15 9-17 * * 1-5", "timezone": "America/New_York"},
        "stock-poll": {**every, "every": timedelta(seconds=20)},
        "monthly-report": {**every, "cron": "0 6 1 * *", "timezone": "Europe/Berlin"},
        "end-of-sale": {**every, "at": datetime(2030, 12, 31, 23, 59, tzinfo=UTC)},
    }
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("anna")


TRACEBACK = """Traceback (most recent call last):
  File "/var/task/shop/tasks.py", line 22, in send_confirmation
    raise AddressBounces(order.email)
shop.tasks.AddressBounces: ada@bounces.example
"""


def fill() -> dict[str, UUID]:
    """Store records of every kind; return some by a name."""
    from lambda_tasks.models import TaskRecord
    from lambda_tasks.records.tables import RunProgress

    chance, now = random.Random(7), datetime.now(UTC)
    tasks = {
        "shop.tasks.send_confirmation": "mail",
        "shop.tasks.reserve_stock": "default",
        "shop.tasks.print_invoice": "reports",
    }
    for number in range(70):
        name = chance.choice(list(tasks))
        at = now - timedelta(seconds=40 * number + 130)
        failed = name.endswith("confirmation") and chance.random() < 0.25
        error = {"exception_class": "shop.tasks.AddressBounces", "traceback": TRACEBACK}
        result: Any = chance.choice([1, 2, "ada@example.org", {"pages": 3, "checksum": 4711}])
        end = {"status": "FAILED", **error} if failed else {"status": "SUCCESS", "result": result}
        TaskRecord.objects.create(
            task_name=name, queue=tasks[name], kwargs={"order_id": 4000 - number}, enqueued_at=at,
            sent_at=at, start_time=at + timedelta(seconds=0.2), n_attempts=1,
            end_time=at + timedelta(seconds=0.2 + chance.expovariate(2)),
            worker_ids="2026/11/27/[7]f00dcafe\n", **end,
        )  # fmt: skip

    def record(**fields: Any) -> TaskRecord:
        base: dict[str, Any] = {
            "id": UUID(int=chance.getrandbits(128), version=4),
            "task_name": "shop.tasks.send_confirmation", "queue": "mail",
            "kwargs": {"order_id": 4711, "gift_note": "Happy birthday, Ada!"}, "n_attempts": 1,
        }  # fmt: skip
        return TaskRecord.objects.create(**base | fields)

    minute = timedelta(minutes=1)
    first = record(
        status="RETRYING", enqueued_at=now - 30 * minute, start_time=now - 30 * minute,
        end_time=now - 30 * minute + timedelta(seconds=0.4), traceback=TRACEBACK,
        exception_class="shop.tasks.AddressBounces", worker_ids="2026/11/27/[7]f00dcafe\n",
    )  # fmt: skip
    TaskRecord.objects.filter(pk=first.pk).update(root_id=first.pk)
    failed = record(
        status="FAILED", root_id=first.pk, retry_of=first.pk, n_retries=1, traceback=TRACEBACK,
        enqueued_at=now - 1 * minute, sent_at=now - 1 * minute, start_time=now - 1 * minute,
        end_time=now - 1 * minute + timedelta(seconds=0.7), priority=10,
        exception_class="shop.tasks.AddressBounces", headers={"tenant": "books-eu"}, n_attempts=2,
        worker_ids="2026/11/27/[7]f00dcafe\n2026/11/27/[7]0badcafe\n",
    )  # fmt: skip
    running = record(
        status="RUNNING", task_name="shop.tasks.print_invoice", queue="reports",
        enqueued_at=now - timedelta(seconds=50), sent_at=now - timedelta(seconds=50),
        start_time=now - timedelta(seconds=48), lease_until=now + 2 * minute, look_at=now + minute,
        worker_ids="worker-7:4711\n", kwargs={"order_id": 4712, "pages": 120},
    )  # fmt: skip
    RunProgress.objects.create(
        record_id=running.pk, shown_at=now, progress={"done": 48, "total": 120, "text": "pages"}
    )
    queued = record(
        status="QUEUED", enqueued_at=now, run_after=now + 90 * minute, look_at=now + 75 * minute,
        n_attempts=0, priority=50,
    )  # fmt: skip
    record(status="CANCELLED", enqueued_at=now - minute, end_time=now - minute, n_attempts=0)
    return {"failed": failed.pk, "running": running.pk, "queued": queued.pk}


def tick() -> None:
    """Let a tick see the schedules, pretend that they have run, and pause one."""
    from lambda_tasks import runtime, scheduling
    from lambda_tasks.declared_schedules import declared
    from lambda_tasks.models import ScheduleState, TaskRecord

    table = runtime.current().schedule_table
    table.note({name: (each.task_name, each.schedule) for name, each in declared().items()})
    now = datetime.now(UTC)
    for state in ScheduleState.objects.all():
        past = declared()[state.name].schedule.rule.until(now)
        for number, due in zip(range(8), past, strict=False):
            TaskRecord.objects.create(
                id=state.run_id(due), task_name=state.task_name, kwargs={"order_id": 1},
                status="FAILED" if number == 2 else "SUCCESS", enqueued_at=due, run_after=due,
                start_time=due, end_time=due + timedelta(seconds=0.3), n_attempts=1,
            )  # fmt: skip
    scheduling.disable_schedule("office-hours", by="anna", reason="Stock take until Monday")


def main() -> None:
    if shutil.which("chromium") is None:
        sys.exit("There is no chromium. On Debian: apt-get install chromium")
    if len(sys.argv) != 2:
        sys.exit("Name the directory for the pictures.")
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as own:
        set_up(Path(own))
        from django.contrib.staticfiles.handlers import StaticFilesHandler
        from django.core.handlers.wsgi import WSGIHandler

        tick()
        records = fill()
        pages = {
            "list": LIST,
            "search": f"{LIST}?q=order&status__exact=FAILED",
            "record": f"{LIST}{records['failed']}/change/",
            "running": f"{LIST}{records['running']}/change/",
            "queued": f"{LIST}{records['queued']}/change/",
            "ask": f"{LIST}{records['failed']}/change/",
            "schedules": SCHEDULES,
            "schedule": f"{SCHEDULES}office-hours/change/",
            "ask-schedule": f"{SCHEDULES}office-hours/change/",
        }
        with make_server(
            "127.0.0.1", 0, StaticFilesHandler(WSGIHandler()), handler_class=Silent
        ) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            base = f"http://127.0.0.1:{server.server_port}"
            wrong = asyncio.run(draw(base, pages, directory, Path(own) / str(uuid4())))
            server.shutdown()
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
