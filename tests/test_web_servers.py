"""The example under the servers that real sites have, with SQS and with the table."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from django.conf import settings as test_settings

from lambda_tasks.local import LocalSqs
from tests.conftest import PATIENCE_S, wait_for
from tests.newcomer import ROOT, Newcomer
from tests.servers import PostgresServer
from tests.servers.process import free_port, listens

SETTINGS = """
MIDDLEWARE = [each for each in MIDDLEWARE if "csrf" not in each]
LAMBDA_TASKS_EAGER = False
LAMBDA_TASKS_QUEUES = {{"default": {queue!r}, "table": {{"database": True}}}}
LAMBDA_TASKS_AWS = {aws!r}
LAMBDA_TASKS_PROCESSES = 1
"""
VIEWS = """
from uuid import uuid4
from django.db import transaction
from django.http import JsonResponse
from lambda_tasks.models import TaskRecord
from shop.models import Order
from shop.tasks import print_invoice, send_confirmation


def invoice(request):
    with transaction.atomic():
        order = Order.objects.create(reference=uuid4(), title=request.POST["title"])
        task = print_invoice.using(queue=request.POST["queue"])
        invocation = task.execute_on_commit(order_id=order.pk, copies=1)
    return JsonResponse({"invocations": [invocation.id]})


async def confirm(request):
    order = await Order.objects.acreate(reference=uuid4(), title=request.POST["title"])
    task = send_confirmation.using(queue=request.POST["queue"])
    invocation = await task.aexecute_on_commit(order_id=order.pk)
    return JsonResponse({"invocations": [invocation.id]})


async def enqueue(request):
    await send_confirmation.aexecute_on_commit(order_id=1)


def ended(request):
    ids = request.POST["ids"].split(",")
    records = TaskRecord.objects.filter(id__in=ids)
    return JsonResponse([each.status for each in records], safe=False)
"""
URLS = """
from shop.more_views import confirm, ended, enqueue, invoice

urlpatterns += [
    path(f"{view.__name__}/", view) for view in (confirm, ended, enqueue, invoice)
]
"""
WSGI = """
import os
from uuid import uuid4
from shop.models import Order
from shop.tasks import print_invoice

if title := os.environ.get("CALL_BEFORE_FORK"):
    order = Order.objects.create(reference=uuid4(), title=title)
    print_invoice.execute_on_commit(order_id=order.pk, copies=1)
    from django.db import connections
    connections.close_all()
"""
NOTHING_IS_LOST = """
import time
from lambda_tasks.models import TaskRecord
from shop.models import Order

orders = list(Order.objects.filter(title={title!r}).values_list("pk", flat=True))
records = TaskRecord.objects.filter(kwargs__order_id__in=orders)
for _ in range(1000):
    if records.filter(status="SUCCESS").count() == len(orders):
        break
    time.sleep(0.1)
seen = sorted((record.kwargs["order_id"], record.status) for record in records)
assert seen == [(pk, "SUCCESS") for pk in sorted(orders)], seen
ids = {{str(record.pk) for record in records}}
assert ids.issuperset({ids!r})
"""
PATCHED_FIRST = "from gevent import monkey; monkey.patch_all()"
UNDER_EVENTLET = """
import os, django, eventlet.patcher
from django.core.exceptions import ImproperlyConfigured

os.environ["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
try:
    django.setup()
except ImproperlyConfigured as error:
    print(error)
"""

THREADS_UNDER_GEVENT = f"""
{PATCHED_FIRST}
import os, threading, django

os.environ["DJANGO_SETTINGS_MODULE"] = "bookshop.settings"
django.setup()
from shop.tasks import print_invoice

print_invoice.execute_on_commit(order_id=1, copies=1)
print(*(each.name for each in threading.enumerate() if each is not threading.main_thread()))
"""

UWSGI_PROGRAM = Path(sys.executable).with_name("uwsgi")
needs_uwsgi = pytest.mark.skipif(
    not UWSGI_PROGRAM.exists(), reason="needs a compiler: uv sync --group uwsgi"
)

GUNICORN = ["-m", "gunicorn", "--no-control-socket", "--bind", "127.0.0.1:{port}", "bookshop.wsgi"]
UWSGI = [
    "--http-socket", "127.0.0.1:{port}", "--module", "bookshop.wsgi", "--die-on-term",
    "--virtualenv", sys.prefix,
]  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A command, without its program where that is Python, and what it can't do."""

    command: Sequence[str]
    runs_async_views: bool = True
    calls_before_fork: bool = False
    program: str = sys.executable


SERVERS = {
    "sync": Server([*GUNICORN, "--workers", "2"]),
    "gthread": Server([*GUNICORN, "--worker-class", "gthread", "--threads", "4"]),
    "gevent": Server([*GUNICORN, "--worker-class", "gevent"], runs_async_views=False),
    "preload": Server([*GUNICORN, "--workers", "2", "--preload"], calls_before_fork=True),
    "gevent-preload": Server(
        [*GUNICORN, "--worker-class", "gevent", "--preload", "--config", "patched_first.py"],
        runs_async_views=False,
        calls_before_fork=True,
    ),
    "uvicorn": Server(["-m", "uvicorn", "--port", "{port}", "bookshop.asgi:application"]),
    "uwsgi": Server(
        [*UWSGI, "--py-call-uwsgi-fork-hooks", "--master", "--processes", "2"],
        calls_before_fork=True,
        program=str(UWSGI_PROGRAM),
    ),
}


@pytest.fixture(scope="module")
def site(sqs: LocalSqs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """The example with more views, migrated; its tasks run in a worker beside it."""
    settings = SETTINGS.format(queue=sqs.create_queue("web"), aws=sqs.client_options)
    with ExitStack() as stack:
        is_postgres = "postgresql" in test_settings.DATABASES["default"]["ENGINE"]
        if is_postgres:
            database = stack.enter_context(PostgresServer()).django_database("site")
            settings += f"DATABASES = {{'default': {database!r}}}\n"
        site = Newcomer(tmp_path_factory.mktemp("site"))
        shutil.copytree(ROOT / "example", site.directory, dirs_exist_ok=True)
        site.env["BOOKSHOP_DATABASE"] = str(site.directory / "shop.sqlite3")
        site.write("bookshop/settings.py", settings, add=True)
        site.write("bookshop/urls.py", URLS, add=True)
        site.write("bookshop/wsgi.py", WSGI, add=True)
        site.write("shop/more_views.py", VIEWS)
        site.write("patched_first.py", PATCHED_FIRST)
        site.run("manage.py", "migrate")
        stack.enter_context(site.running("lambda_tasks", "worker"))
        yield site


class Running:
    """A server that runs, and what it has printed."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process = process
        self.log = log
        self._url = f"http://127.0.0.1:{port}"

    def post(self, path: str, **fields: str) -> Any:
        """The answer's JSON. Raises OSError or HTTPException for what is no success."""
        data = urlencode(fields).encode()
        with urlopen(f"{self._url}{path}", data=data, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=PATIENCE_S)
        # uvicorn sends itself the signal once more, when all is done.
        assert code in (0, -signal.SIGTERM), self.log.read_text()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()


@contextmanager
def serving(site: Newcomer, server: Server, **environment: str) -> Iterator[Running]:
    port = free_port()
    log = site.directory / f"{port}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [server.program, *(each.format(port=port) for each in server.command)],
            cwd=site.directory,
            env=site.environment() | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None, log.read_text()
        yield Running(process, port, log)
    finally:
        process.kill()
        process.wait()
        print(log.read_text())  # for who looks into a failure


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[needs_uwsgi] * (name == "uwsgi")) for name in SERVERS]
)
def test_a_site_enqueues_and_goes_on_under(site: Newcomer, name: str) -> None:
    server = SERVERS[name]
    ids: list[str] = []
    paths = ["/invoice/", "/confirm/"] if server.runs_async_views else ["/invoice/"]
    own_paths = ["/orders/", "/async/orders/"] if server.runs_async_views else ["/orders/"]
    calls = [(path, queue) for path in paths for queue in ("default", "table")] * 3
    before_fork = {"CALL_BEFORE_FORK": name} if server.calls_before_fork else {}

    def place(call: tuple[str, str]) -> None:
        ids.extend(running.post(call[0], title=name, queue=call[1])["invocations"])

    def place_until_refused() -> None:
        try:
            while True:
                place(calls[0])
        except (OSError, HTTPException):  # it listens no more, or has ended within its answer
            return

    with serving(site, server, **before_fork) as running, ThreadPoolExecutor(4) as customers:
        list(customers.map(place, calls))
        assert len(ids) == len(calls)
        of_orders = [id for path in own_paths for id in running.post(path)["invocations"]]
        awaited = ",".join(ids + of_orders)
        wait_for(lambda: set(running.post("/ended/", ids=awaited)) == {"SUCCESS"})

        late = threading.Thread(target=place_until_refused)
        late.start()
        wait_for(lambda: len(ids) > len(calls))
        running.end()
        late.join(PATIENCE_S)

    site.shell(NOTHING_IS_LOST.format(title=name, ids=ids))


def test_a_coroutine_that_enqueues_under_gevent_is_told_what_to_do(site: Newcomer) -> None:
    with serving(site, SERVERS["gevent"]) as running:
        with pytest.raises(HTTPError, match="500"):
            running.post("/enqueue/")

        assert "Call execute_on_commit() in a sync view" in running.log.read_text()


def test_no_thread_of_the_library_is_a_greenlet(site: Newcomer) -> None:
    assert site.run("-c", THREADS_UNDER_GEVENT).strip() == ""


@needs_uwsgi
def test_a_process_that_was_forked_behind_pythons_back_is_told_what_to_do(site: Newcomer) -> None:
    server = replace(SERVERS["uwsgi"], command=[*UWSGI, "--master"])
    with serving(site, server, CALL_BEFORE_FORK="forked") as running:
        with pytest.raises(HTTPError, match="500"):
            running.post("/orders/")

        assert "py-call-uwsgi-fork-hooks" in running.log.read_text()


def test_a_site_whose_threads_are_those_of_eventlet_does_not_start(tmp_path: Path) -> None:
    site = Newcomer.with_first_task(tmp_path)
    (tmp_path / "eventlet").mkdir()
    site.write("eventlet/patcher.py", "def is_monkey_patched(module): return module == 'thread'")

    assert "eventlet has patched the threads" in site.run("-c", UNDER_EVENTLET)
