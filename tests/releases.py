"""Two releases of one project, each in an interpreter of its own, on one database and one SQS."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from lambda_tasks.local import LocalSqs
from lambda_tasks.local.event_source import EventSourceMapping
from tests.conftest import PATIENCE_S
from tests.newcomer import Newcomer

MARK: Final = "answer: "
"""What its answers begin with, beside what commands and tasks print."""

PROGRAM: Final = """
import json, sys
from datetime import timedelta
import django
django.setup()
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.utils.module_loading import import_string
from lambda_tasks import handler, runtime
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.clock import Now

def call(task, kwargs, **options):
    invocation = import_string(task).using(**options).execute_on_commit(**kwargs)
    runtime.close()  # once it is sent
    return str(invocation.id)

def handle(event):
    return handler.handler(event, LambdaContext())

def work(queue):
    call_command("lambda_tasks", "worker", "--queue", queue, "--once")

def relay():
    TaskRecord.objects.filter(status="QUEUED").update(look_at=Now())
    async_to_sync(runtime.current().relay.run_once)(grace=timedelta(0))
    runtime.close()

def end_grace(id):
    TaskRecord.objects.filter(id=id).update(refused_at=Now() - timedelta(hours=1))

def record(id):
    return TaskRecord.objects.values("status", "result", "traceback", "n_attempts").get(id=id)

for line in sys.stdin:
    name, arguments = json.loads(line)
    print(sys.argv[1] + json.dumps(globals()[name](**arguments), default=str), flush=True)
"""


class Release:
    """One release of the project, as a process that does what it is asked for."""

    def __init__(self, directory: Path, *, tasks: str, settings: str) -> None:
        self._newcomer = Newcomer.with_first_task(directory, settings=settings)
        self._newcomer.write("shop/tasks.py", tasks)
        self._newcomer.write("mysite/urls.py", "urlpatterns = []")  # its views call other tasks
        self._log = directory / "log"

    def migrate(self) -> None:
        """Make the tables of both releases."""
        self._newcomer.run("manage.py", "migrate")

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, MARK],
                cwd=self._newcomer.directory,
                env=self._newcomer.environment() | {"DJANGO_SETTINGS_MODULE": "mysite.settings"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def ask(self, name: str, **arguments: Any) -> Any:
        """Call one of its functions; return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise AssertionError(self._log.read_text())


class Queues:
    """The queues of both releases, by name; None is the table."""

    def __init__(self, sqs: LocalSqs, urls: dict[str, str | None]) -> None:
        self._sqs = sqs
        self._urls = urls
        self._receipts: list[str] = []

    def setting(self, *names: str) -> str:
        """Return LAMBDA_TASKS_QUEUES with these queues, as source."""
        queues = {name: self._urls[name] or {"database": True} for name in ("default", *names)}
        options = {
            name: value
            for name, value in self._sqs.client_options.items()
            if "endpoint" not in name
        }
        return f"LAMBDA_TASKS_QUEUES = {queues!r}\nLAMBDA_TASKS_AWS = {options!r}\n"

    def deliver(self, name: str, release: Release) -> None:
        """Give a release what is in a queue, once."""
        url = self._urls[name]
        if url is None:
            release.ask("work", queue=name)
            return

        def invoke(event: dict[str, Any]) -> Any:
            self._receipts = [each["receiptHandle"] for each in event["Records"]]
            return release.ask("handle", event=event)

        with EventSourceMapping(url, invoke, client_options=self._sqs.client_options) as mapping:
            assert mapping.poll_once(wait_s=5) == 1

    def end_wait(self, name: str, release: Release) -> None:
        """Let what waits because of this release be due again."""
        url = self._urls[name]
        if url is None:
            return
        if not url.endswith(".fifo"):
            release.ask("relay")
            return
        for receipt in self._receipts:
            self._sqs.client.change_message_visibility(
                QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0
            )


def running(*releases: Release) -> ExitStack:
    """Start releases, which end with the returned context."""
    stack = ExitStack()
    for release in releases:
        stack.enter_context(release)
    return stack
