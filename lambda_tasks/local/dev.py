"""The parent of `dev`: Django's development server, an SQS on loopback, and the real handler.

Each part is a process. The parent restarts a part when the project's code changes or when it was
killed, sends stored messages, and prints the end of each run.
"""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Thread
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections

from .. import conf, console, registry, runtime
from ..errors import NotMigrated
from ..interrupts import interrupt_after
from ..local_run import LocalRun, RunKeys
from ..queues.base import MAX_LAMBDA_TIMEOUT_S
from ..queues.sqs import SQSQueue
from ..records import queries
from ..records.database import record_alias
from ..records.outbox import forget_sent
from .code_watch import CodeWatch
from .ends import Ends
from .part import DRAIN_S, Part
from .sqs_server import LocalSqs

POLL_EVERY_S: Final = 0.5
"""Seconds between two looks at the records, the parts and the code."""

STOP_POLL_S: Final = 0.05
"""Seconds between two looks at the parts while they stop."""

HURRY_EVERY_S: Final = 0.5
"""Seconds between two signals to the parts after a second Ctrl-C."""

JOIN_LIMIT_S: Final = 2.0
"""Seconds for the last look at the records, after which the rest is not reported."""

RELAY_GRACE: Final = timedelta(seconds=1)
"""The age at which the parent sends the messages of other processes.

A shell, for example, does not know of this SQS and can't send them itself.
"""

MAX_RECEIVE_COUNT: Final = 20
"""The number of deliveries after which a message is a dead letter.

It is high because chaos causes many deliveries, and those that arrive too early count too.
"""

TIMEOUT_MARGIN_S: Final = 3.0
"""Seconds by which the function's timeout exceeds the longest hard timeout."""

VISIBILITY_MARGIN_S: Final = 5.0
"""Seconds by which the visibility timeout of the queues exceeds the function's timeout."""


class ServerEnded(Exception):
    """The error that ends `dev`: the development server could not start, or exited."""


@dataclass(slots=True)
class Dev:
    """The parent process: run() starts the parts and watches them until stop()."""

    say: Callable[[str], None]
    """Prints a line."""
    show: Callable[[str], None]
    """Shows the number of running and waiting tasks; the next call replaces it."""
    address: str
    """The development server's HOST:PORT."""
    timeout_s: float | None = None
    """The function's timeout, in seconds; by default that of the longest task, and a margin."""
    chaos: str = ""
    """The faults, as Chaos.parse() reads them."""
    verbosity: int = 1
    """How much it prints: 0 for errors only, 1 also for ends of runs, 2 also for their starts."""
    _n_stops: int = 0
    _parts: list[Part] = field(default_factory=list)
    _n_running: int = 0

    def stop(self) -> None:
        """Let run() stop all parts and return. A second call interrupts the runs at once."""
        self._n_stops += 1

    def run(self) -> dict[str, int]:
        """Run until stop(); return the number of runs that have ended, by status.

        Raises ServerEnded where the server exits, ImproperlyConfigured where DEBUG is off,
        NotMigrated where a table is missing, and ModuleNotFoundError for chaos without MiniStack.
        """
        if not settings.DEBUG:
            raise ImproperlyConfigured(
                "dev is for laptops: it sends every message to a local SQS, and no process uses "
                "that where DEBUG is False. Set DEBUG = True in the settings, or use `manage.py "
                "lambda_tasks worker`."
            )
        queries.check_migrated()
        with ExitStack() as stack:
            sqs = self._start_sqs(stack)
            # Loads all task modules: the code of the project is what is loaded.
            tasks = console.describe_tasks()
            self._make_parts(sqs)
            self._inform(self._banner(sqs, tasks))
            # The queues of the last `dev` are gone, and with them the messages that they held.
            forget_sent()
            ends = Ends(self._is_own)
            stack.callback(self._stop_parts)
            for part in self._parts:
                part.start()
            watching = Thread(target=self._watch_records, args=(ends,), daemon=True)
            watching.start()
            self._watch_code()
            self._announce_stop()
        watching.join(JOIN_LIMIT_S)
        if not watching.is_alive():
            with suppress(DatabaseError), interrupt_after(JOIN_LIMIT_S):
                self._report(ends)
        runtime.close()
        return dict(ends.counts)

    def _start_sqs(self, stack: ExitStack) -> LocalSqs | None:
        sqs: LocalSqs | None = None
        try:
            sqs = stack.enter_context(LocalSqs())
        except ModuleNotFoundError as missing:
            if self.chaos:
                raise
            self._inform(f"{missing} Without it the table is the queue.")
        environment = _make_run(sqs).environment()
        if self.verbosity:
            environment[console.LINES_VARIABLE] = str(self.verbosity)
        for name, value in environment.items():
            os.environ[name] = value
            stack.callback(os.environ.pop, name)
        conf.forget()
        stack.callback(conf.forget)
        return sqs

    def _make_parts(self, sqs: LocalSqs | None) -> None:
        self._parts.append(
            Part("server", ["-m", "django", "runserver", self.address], reloads=False)
        )
        queues = conf.current().queues.values()
        urls = {queue.queue_url for queue in queues if isinstance(queue, SQSQueue)}
        if sqs is not None and urls:
            timeout_s = self._function_timeout_s()
            for url in urls:
                sqs.create_queue(
                    url.rpartition("/")[2],
                    visibility_timeout_s=round(timeout_s + VISIBILITY_MARGIN_S),
                    max_receive_count=MAX_RECEIVE_COUNT,
                )
            options = ["--timeout", str(timeout_s), "--chaos", self.chaos]
            module = f"{__package__}.function"
            self._parts.append(Part("function", ["-m", module, *options, *sorted(urls)]))
        tables = [queue.name for queue in queues if queue.is_table]
        if tables:
            names = [option for name in tables for option in ("--queue", name)]
            options = ["--verbosity", "0", "--drain", str(DRAIN_S), *names]
            self._parts.append(Part("worker", ["-m", "django", "lambda_tasks", "worker", *options]))

    def _function_timeout_s(self) -> float:
        if self.timeout_s is not None:
            return self.timeout_s
        limits_s = [task.options.hard_timeout or 0 for task in registry.tasks()]
        longest_s = max(conf.current().default_hard_timeout, *limits_s)
        return min(longest_s + TIMEOUT_MARGIN_S, MAX_LAMBDA_TIMEOUT_S)

    def _banner(self, sqs: LocalSqs | None, tasks: str) -> str:
        address = f"127.0.0.1:{self.address}" if self.address.isdigit() else self.address
        names = [part.name for part in self._parts]
        lines = {"site": f"http://{address}/"}
        if sqs is not None:
            lines["SQS"] = f"{sqs.endpoint_url}, for this run only; nothing is sent to AWS"
        if "function" in names:
            lines["function"] = f"the real handler, {self._function_timeout_s():g} s for an event"
        if "worker" in names:
            lines["worker"] = "runs the tasks of the table"
        lines["queues"] = console.describe_queues(conf.current().queues.values())
        lines["tasks"] = tasks
        lines["database"] = console.describe_database(record_alias())
        return console.banner("lambda_tasks dev (Ctrl-C ends all of it)", **lines)

    def _watch_records(self, ends: Ends) -> None:
        """Report ends and send messages, on a thread of its own: the database may be locked."""
        relay = async_to_sync(runtime.current().relay.run_once)
        shifts = runtime.current().relay_shifts
        schedule = async_to_sync(runtime.current().scheduler.tick)
        last_error = ""
        while not self._n_stops:
            time.sleep(POLL_EVERY_S)
            try:
                self._report(ends)
                if not shifts.due_in_s:  # so that its function and worker leave it to this thread
                    async_to_sync(shifts.take)(always=True)
                    schedule()
                relay(grace=RELAY_GRACE)
                self._show_counts()
                last_error = ""
            except (DatabaseError, NotMigrated) as error:
                text = str(error).strip()
                if text != last_error:
                    self._say(f"The database can't be read or written for now: {text}")
                last_error = text
        connections.close_all()

    def _watch_code(self) -> None:
        code = CodeWatch()
        while not self._n_stops:
            time.sleep(POLL_EVERY_S)
            has_changed = code.has_changed()
            for part in self._parts:
                self._restart_if_needed(part, has_changed=has_changed)

    def _report(self, ends: Ends) -> None:
        for record in ends.new():
            with_traceback = not console.logs_failures()
            self._inform(console.describe_end(record, with_traceback=with_traceback))

    def _show_counts(self) -> None:
        self._n_running = sum(map(self._is_own, queries.running_workers()))
        n_waiting = queries.count_waiting()
        is_idle = not (self._n_running or n_waiting)
        text = "" if is_idle else f"{self._n_running} running, {n_waiting} waiting"
        with self._until_output_is_gone():
            self.show(text)

    def _is_own(self, worker_id: str) -> bool:
        return any(worker_id == runtime.worker_id(pid) for part in self._parts for pid in part.pids)

    def _restart_if_needed(self, part: Part, *, has_changed: bool) -> None:
        if part.reloads and has_changed and not part.is_stopping:
            self._inform(f"The code has changed: restarting the {part.name}.")
            part.stop()
        exit_code = part.exit_code()
        if exit_code is None or self._n_stops:
            return
        if part.is_stopping:
            part.start()
        elif not part.reloads:
            raise ServerEnded(
                f"The {part.name} ended with {exit_code}. If another process uses {self.address}, "
                "name another address: `manage.py lambda_tasks dev 127.0.0.1:8001`."
            )
        elif exit_code < 0:
            cause = signal.Signals(-exit_code).name
            self._say(f"The {part.name} was killed ({cause}) and is restarted.")
            part.start()
        elif not part.waits_for_change:
            self._say(f"The {part.name} ended with {exit_code} and waits for a change of the code.")
            part.waits_for_change = True

    def _announce_stop(self) -> None:
        if self._n_running:
            self._inform(
                f"Finishing {self._n_running} (up to {DRAIN_S:g} s); Ctrl-C once more gives them "
                "back."
            )

    def _stop_parts(self) -> None:
        """Stop all parts at the same time. Those that don't end in time are killed."""
        for part in self._parts:
            part.stop()
        hurry_at = time.monotonic() + HURRY_EVERY_S
        while any(part.exit_code() is None for part in self._parts):
            time.sleep(STOP_POLL_S)
            if self._n_stops > 1 and time.monotonic() > hurry_at:
                # Again and again: of two signals at a time, a busy process sees one.
                hurry_at += HURRY_EVERY_S
                for part in self._parts:
                    part.stop()
        for part in self._parts:
            part.kill()

    def _inform(self, text: str) -> None:
        if self.verbosity:
            self._say(text)

    def _say(self, text: str) -> None:
        with self._until_output_is_gone():
            self.say(text)

    @contextmanager
    def _until_output_is_gone(self) -> Iterator[None]:
        """Stop where the body can't print: the terminal is closed, or the pipe has no reader."""
        try:
            yield
        except OSError:
            self.stop()


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
