"""All of it on a laptop: Django's development server, an SQS on loopback, and the real handler.

The parts are processes of their own. The parent starts them again when the project's code changes
or when they die, and tells what becomes of the tasks.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.autoreload import StatReloader

from .. import conf, registry, runtime
from ..local_run import LocalRun, RunKeys
from ..queues.sqs import SQSQueue
from ..records import queries
from ..records.outbox import forget_sent
from .sqs_server import LocalSqs

LOOK_EVERY_S: Final = 0.5
STOP_WITHIN_S: Final = 10.0

RELAY_GRACE: Final = timedelta(seconds=1)
"""What another process has enqueued, a shell say, which does not know of this SQS, is sent then."""

MAX_RECEIVE_COUNT: Final = 20
"""Deliveries before a message is among the dead letters; those that come too early count too, and
with chaos there are many."""

VISIBILITY_MARGIN_S: Final = 5.0
"""Over the function's timeout, for which SQS keeps a message that its function does not answer."""


class ServerEnded(Exception):
    """Django's development server could not start, or ended by itself."""


@dataclass(slots=True)
class Part:
    """One process. With `reloads` the parent starts it again when the code changes."""

    name: str
    arguments: list[str]
    reloads: bool = True
    starts: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it, in a session of its own: Ctrl+C is for the parent, which stops all in order."""
        self.starts += 1
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, *self.arguments],
            # What a part prints is seen at once also where it goes into a pipe.
            env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )

    def stop(self) -> None:
        """Let it finish for some seconds."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            with_all(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


def with_all(pid: int, signal_number: int) -> None:
    """Signal a process and what it has started."""
    try:
        os.killpg(pid, signal_number)
    except ProcessLookupError:
        return


@dataclass(slots=True)
class Dev:
    """`say` prints a line, `show` what runs at the moment. `chaos` is as Chaos.parse() takes it."""

    say: Callable[[str], None]
    show: Callable[[str], None]
    address: str
    timeout_s: float
    chaos: str = ""
    _stopping: bool = False
    _waits_for_change: set[str] = field(default_factory=set)

    def stop(self) -> None:
        """End all parts in order."""
        self._stopping = True

    def run(self) -> dict[str, int]:
        """Until stop(); how many records there are in each status then.

        Raises ServerEnded, ImproperlyConfigured where DEBUG is off, and ModuleNotFoundError for
        chaos without a local SQS.
        """
        if not settings.DEBUG:
            raise ImproperlyConfigured(
                "dev is for laptops: it sends every message to a local SQS, which no process does "
                "where DEBUG is False. Set DEBUG = True in the settings, or use `manage.py "
                "lambda_tasks worker`."
            )
        with ExitStack() as stack:
            sqs = self._start_sqs(stack)
            parts = self._parts(sqs)
            forget_sent()  # into the queues of another time
            for part in parts:
                stack.callback(part.stop)
                part.start()
            self._watch(parts)
            runtime.close()
        return queries.count_by_status()

    def _start_sqs(self, stack: ExitStack) -> LocalSqs | None:
        sqs: LocalSqs | None = None
        try:
            sqs = stack.enter_context(LocalSqs())
        except ModuleNotFoundError as missing:
            if self.chaos:
                raise
            self.say(f"{missing} Without it the table is the queue.")
        for name, value in _run_of(sqs).environment().items():
            os.environ[name] = value
            stack.callback(os.environ.pop, name)
        conf.forget()
        stack.callback(conf.forget)
        return sqs

    def _parts(self, sqs: LocalSqs | None) -> list[Part]:
        parts = [Part("server", ["-m", "django", "runserver", self.address], reloads=False)]
        queues = conf.current().queues.values()
        urls = {queue.queue_url for queue in queues if isinstance(queue, SQSQueue)}
        if sqs is not None and urls:
            for url in urls:
                sqs.create_queue(
                    url.rpartition("/")[2],
                    visibility_timeout_s=round(self.timeout_s + VISIBILITY_MARGIN_S),
                    max_receive_count=MAX_RECEIVE_COUNT,
                )
            options = ["--timeout", str(self.timeout_s), "--chaos", self.chaos]
            module = f"{__package__}.function"
            parts.append(Part("function", ["-m", module, *options, *sorted(urls)]))
        tables = [queue.name for queue in queues if queue.is_table]
        if tables:
            names = [option for name in tables for option in ("--queue", name)]
            parts.append(Part("worker", ["-m", "django", "lambda_tasks", "worker", *names]))
        return parts

    def _watch(self, parts: list[Part]) -> None:
        registry.discover()  # their files are watched
        relay = async_to_sync(runtime.current().relay.run_once)
        code, told = _modified(), timezone.now()
        while not self._stopping:
            time.sleep(LOOK_EVERY_S)
            told = self._tell(told)
            relay(grace=RELAY_GRACE)
            counts = queries.count_by_status()
            running, waiting = counts.get("RUNNING", 0), counts.get("QUEUED", 0)
            self.show(f"{running} running, {waiting} waiting" if running or waiting else "")
            now = _modified()
            changed, code = now != code, now
            for part in parts:
                self._look_after(part, changed=changed)

    def _look_after(self, part: Part, *, changed: bool) -> None:
        code = part.process.poll() if part.process is not None else None
        if part.reloads and changed:
            self.say(f"The code has changed: the {part.name} starts again.")
            self._waits_for_change.discard(part.name)
            part.stop()
            part.start()
        elif code is not None and not part.reloads:
            raise ServerEnded(f"The {part.name} ended with {code}.")
        elif code is not None and part.name not in self._waits_for_change:
            if code < 0:
                self.say(f"The {part.name} was killed ({signal.Signals(-code).name}): another.")
                part.start()
            else:
                self.say(f"The {part.name} ended with {code} and waits for a change of the code.")
                self._waits_for_change.add(part.name)

    def _tell(self, since: datetime) -> datetime:
        for record in queries.finished_since(since):
            took = record.duration
            seconds = f"{took.total_seconds():7.3f} s" if took is not None else " " * 9
            self.say(f"{record.status:9} {seconds}  {record.task_name}{_why(record.traceback)}")
            assert record.end_time is not None
            since = max(since, record.end_time)
        return since


def _run_of(sqs: LocalSqs | None) -> LocalRun:
    if sqs is None:
        return LocalRun()
    options = sqs.client_options
    keys = RunKeys(
        access_key=options["aws_access_key_id"],
        secret_key=options["aws_secret_access_key"],
        signing_key=secrets.token_urlsafe(),
    )
    return LocalRun(sqs.endpoint_url, keys)


def _why(traceback: str | None) -> str:
    return f"  {traceback.strip().splitlines()[-1]}" if traceback else ""


def _modified() -> dict[Path, float]:
    """When each file of the loaded code was changed."""
    return dict(StatReloader().snapshot_files())


@contextmanager
def interrupted_by_signals(dev: Dev) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop it, in the body."""
    before: dict[int, Any] = {
        each: signal.signal(each, lambda *_: dev.stop())
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
