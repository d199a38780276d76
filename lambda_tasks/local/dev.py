"""The parent of `dev`: Django's development server, an SQS on loopback, and the real handler.

Each part is a process. The parent restarts a part when the project's code changes or when it was
killed, sends stored messages, and prints a line for each finished task.
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

POLL_EVERY_S: Final = 0.5
"""Seconds between two looks at the records, the parts and the code."""

STOP_LIMIT_S: Final = 10.0
"""Seconds for a part to stop, after which it is killed."""

RELAY_GRACE: Final = timedelta(seconds=1)
"""The age at which the parent sends the messages of other processes.

A shell, for example, does not know of this SQS and can't send them itself.
"""

MAX_RECEIVE_COUNT: Final = 20
"""The number of deliveries after which a message is a dead letter.

It is high because chaos causes many deliveries, and those that arrive too early count too.
"""

VISIBILITY_MARGIN_S: Final = 5.0
"""Seconds by which the visibility timeout of the queues exceeds the function's timeout."""


class ServerEnded(Exception):
    """The error that ends `dev`: the development server could not start, or exited."""


@dataclass(slots=True)
class Part:
    """One process of `dev`."""

    name: str
    arguments: list[str]
    """The arguments of the Python interpreter."""
    reloads: bool = True
    """Whether the parent restarts it when the code changes. The server reloads itself."""
    starts: int = 0
    """The number of times that it was started."""
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the process."""
        self.starts += 1
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, *self.arguments],
            # Unbuffered, so that its lines appear at once even if `dev` writes into a pipe.
            env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            # Ctrl+C at a terminal would reach every part. The parent stops them in order instead.
            start_new_session=True,
        )

    def stop(self) -> None:
        """Stop the process with SIGTERM; kill its group if it runs after STOP_LIMIT_S."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            signal_group(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process = None


def signal_group(pid: int, signal_number: int) -> None:
    """Send a signal to a process and the processes that it has started."""
    try:
        os.killpg(pid, signal_number)
    except ProcessLookupError:
        return


@dataclass(slots=True)
class Dev:
    """The parent process: run() starts the parts and watches them until stop()."""

    say: Callable[[str], None]
    """Prints a line."""
    show: Callable[[str], None]
    """Shows the number of running and waiting tasks; the next call replaces it."""
    address: str
    """The development server's HOST:PORT."""
    timeout_s: float
    """The function's timeout, in seconds."""
    chaos: str = ""
    """The faults, as Chaos.parse() reads them."""
    _stopping: bool = False
    _waits_for_change: set[str] = field(default_factory=set)

    def stop(self) -> None:
        """Let run() stop all parts in order and return."""
        self._stopping = True

    def run(self) -> dict[str, int]:
        """Run until stop(); return the number of records in each status.

        Raises ServerEnded where the server exits, ImproperlyConfigured where DEBUG is off, and
        ModuleNotFoundError for chaos without MiniStack.
        """
        if not settings.DEBUG:
            raise ImproperlyConfigured(
                "dev is for laptops: it sends every message to a local SQS, and no process uses "
                "that where DEBUG is False. Set DEBUG = True in the settings, or use `manage.py "
                "lambda_tasks worker`."
            )
        with ExitStack() as stack:
            sqs = self._start_sqs(stack)
            parts = self._parts(sqs)
            # The queues of the last `dev` are gone, and with them the messages that they held.
            forget_sent()
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
        for name, value in _make_run(sqs).environment().items():
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
        # All task modules have to be loaded: only the files of loaded modules are watched.
        registry.discover()
        relay = async_to_sync(runtime.current().relay.run_once)
        modified, reported_until = _modification_times(), timezone.now()
        while not self._stopping:
            time.sleep(POLL_EVERY_S)
            reported_until = self._report_finished(reported_until)
            relay(grace=RELAY_GRACE)
            counts = queries.count_by_status()
            running, waiting = counts.get("RUNNING", 0), counts.get("QUEUED", 0)
            self.show(f"{running} running, {waiting} waiting" if running or waiting else "")
            now = _modification_times()
            changed, modified = now != modified, now
            for part in parts:
                self._restart_if_needed(part, changed=changed)

    def _restart_if_needed(self, part: Part, *, changed: bool) -> None:
        exit_code = part.process.poll() if part.process is not None else None
        if part.reloads and changed:
            self.say(f"The code has changed: restarting the {part.name}.")
            self._waits_for_change.discard(part.name)
            part.stop()
            part.start()
        elif exit_code is not None and not part.reloads:
            raise ServerEnded(f"The {part.name} ended with {exit_code}.")
        elif exit_code is not None and part.name not in self._waits_for_change:
            if exit_code < 0:
                cause = signal.Signals(-exit_code).name
                self.say(f"The {part.name} was killed ({cause}) and is restarted.")
                part.start()
            else:
                # A restart would only fail again until the code is changed.
                self.say(
                    f"The {part.name} ended with {exit_code} and waits for a change of the code."
                )
                self._waits_for_change.add(part.name)

    def _report_finished(self, since: datetime) -> datetime:
        for record in queries.finished_since(since):
            took = record.duration
            seconds = f"{took.total_seconds():7.3f} s" if took is not None else " " * 9
            self.say(
                f"{record.status:9} {seconds}  {record.task_name}{_last_line(record.traceback)}"
            )
            assert record.end_time is not None
            since = max(since, record.end_time)
        return since


def _make_run(sqs: LocalSqs | None) -> LocalRun:
    if sqs is None:
        return LocalRun()
    options = sqs.client_options
    keys = RunKeys(
        access_key=options["aws_access_key_id"],
        secret_key=options["aws_secret_access_key"],
        signing_key=secrets.token_urlsafe(),
    )
    return LocalRun(sqs.endpoint_url, keys)


def _last_line(traceback: str | None) -> str:
    return f"  {traceback.strip().splitlines()[-1]}" if traceback else ""


def _modification_times() -> dict[Path, float]:
    """Return the modification time of each file of the loaded code."""
    return dict(StatReloader().snapshot_files())


@contextmanager
def stopped_by_signals(dev: Dev) -> Iterator[None]:
    """Let SIGTERM, SIGHUP and Ctrl-C stop `dev` in the body."""
    previous: dict[int, Any] = {
        each: signal.signal(each, lambda *_: dev.stop())
        for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
