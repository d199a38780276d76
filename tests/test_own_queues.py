"""Kinds of queues of the project's own: settings, the documented one, and the suite for all."""

import asyncio
import importlib
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from django.core.checks import run_checks

from lambda_tasks import conf, operations, runtime
from lambda_tasks.entrypoints.worker import Listener, Worker, worker_of
from lambda_tasks.errors import MessageRefused
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import DONE, RETURNED
from lambda_tasks.queues import (
    BatchLimits,
    Delivery,
    Outgoing,
    PullSource,
    Queue,
    SendFailure,
    Settlement,
    Wiring,
)
from lambda_tasks.testing import QueueConformance
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, relay
from tests.newcomer import PAGES, blocks
from tests.servers import Moto

PAGE = blocks(PAGES["docs/own-queues.md"])
MODULE = "queues_of_the_page"
KIND = f"{MODULE}.DirectoryQueue"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: Any) -> Iterator[ModuleType]:
    """The module that the page shows."""
    (tmp_path / f"{MODULE}.py").write_text(PAGE["shop/queues.py"])
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


# The suite


@pytest.mark.django_db(transaction=True)
class TestTheQueueOfThePage(QueueConformance):
    @pytest.fixture
    def queue_setting(self, page: ModuleType, tmp_path: Path) -> Any:
        return {"kind": KIND, "path": str(tmp_path / "spool")}

    @pytest.fixture
    def unreachable_setting(self) -> Any:
        return {"kind": KIND, "path": "/proc/no/such/directory"}


def new_queue(sqs: LocalSqs, settings: Any, suffix: str = "") -> str:
    settings.LAMBDA_TASKS_AWS = sqs.client_options
    return sqs.create_queue(f"suite-{uuid.uuid4().hex}{suffix}", visibility_timeout_s=30)


@pytest.mark.django_db(transaction=True)
class TestSqs(QueueConformance):
    @pytest.fixture
    def queue_setting(self, sqs: LocalSqs, settings: Any) -> Any:
        return {"queue_url": new_queue(sqs, settings), "max_message_bytes": 2**18}

    @pytest.fixture
    def unreachable_setting(self, settings: Any, sqs: LocalSqs) -> Any:
        settings.LAMBDA_TASKS_AWS = sqs.client_options | {"endpoint_url": "http://127.0.0.1:9"}
        return {"queue_url": "http://127.0.0.1:9/000000000000/nowhere"}


@pytest.mark.django_db(transaction=True)
class TestSqsFifo(QueueConformance):
    @pytest.fixture
    def queue_setting(self, sqs: LocalSqs, settings: Any) -> Any:
        return {"queue_url": new_queue(sqs, settings, ".fifo"), "max_message_bytes": 2**18}


@pytest.mark.django_db(transaction=True)
class TestTheTable(QueueConformance):
    @pytest.fixture
    def queue_setting(self) -> Any:
        return {"database": True}


@pytest.mark.django_db(transaction=True)
class TestBatch(QueueConformance):
    @pytest.fixture
    def queue_setting(self, moto: Moto, monkeypatch: Any) -> Any:
        for name, value in moto.env.items():
            monkeypatch.setenv(name, value)
        return {
            "job_queue_arn": "arn:aws:batch:us-east-1:123456789012:job-queue/heavy",
            "job_definition_arn": "arn:aws:batch:us-east-1:123456789012:job-definition/heavy:1",
            "direct": True,
        }


# What the suite finds


def _unsigned(page: Any, patch: Any) -> None:
    patch(page.DirectoryQueue, "sign", lambda self, body, wiring: body)


def _of_another_queue(page: Any, patch: Any) -> None:
    patch(page.DirectoryQueue, "is_fed_by", lambda self, source: False)


def _without_delay(page: Any, patch: Any) -> None:
    patch(page.os, "utime", lambda *args: None)


def _greedy(page: Any, patch: Any) -> None:
    take = page.DirectorySource._take
    patch(page.DirectorySource, "_take", lambda self, limit: take(self, 10))


def _forgetful(page: Any, patch: Any) -> None:
    async def ack(self: Any, id: str) -> None:
        await asyncio.to_thread(self._move, id, "taken", "ready", 0.0)

    patch(page.DirectorySource, "ack", ack)


def _failing(page: Any, patch: Any) -> None:
    async def ack(self: Any, id: str) -> None:
        raise ConnectionError("the queue is away")

    patch(page.DirectorySource, "ack", ack)


def _generous(page: Any, patch: Any) -> None:
    patch(page, "TAKEN_FOR_S", -1.0)


def _garbled(page: Any, patch: Any) -> None:
    text = page.Path.read_text

    def read(self: Any, encoding: str) -> Any:
        return text(self, encoding="latin-1")

    patch(page.Path, "read_text", read)


def _raising(page: Any, patch: Any) -> None:
    patch(page.DirectoryTransport, "_write", lambda self, outgoing: 1 / 0)


def _small(page: Any, patch: Any) -> None:
    failure = SendFailure("too large", retryable=False)
    patch(
        page.DirectoryTransport,
        "_write",
        lambda self, outgoing: failure if len(outgoing.body) > 1000 else None,
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_unsigned, "signed_messages_arrive_with_a_signature_for_this_queue"),
        (_of_another_queue, "what_is_sent_arrives_unchanged"),
        (_without_delay, "a_delayed_message_does_not_arrive_before_its_time"),
        (_greedy, "a_poll_returns_no_more_than_it_is_asked_for"),
        (_forgetful, "what_is_acknowledged_does_not_come_again"),
        (_failing, "what_is_acknowledged_does_not_come_again"),
        (_generous, "while_one_worker_has_a_message_another_does_not_get_it"),
        (_garbled, "what_is_sent_arrives_unchanged"),
        (_raising, "a_transport_answers_each_message_of_a_batch"),
        (_small, "a_queue_takes_the_largest_message_that_it_says_it_takes"),
    ],
)
def test_the_suite_finds_what_a_queue_does_wrong(
    spoil: Any,
    name: str,
    page: ModuleType,
    tmp_path: Path,
    monkeypatch: Any,
    settings: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spool = {"kind": KIND, "path": str(tmp_path / "spool")}
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}, "conforming": spool}
    suite = QueueConformance()
    suite.log = caplog
    getattr(suite, f"test_{name}")()
    shutil.rmtree(tmp_path / "spool")

    with monkeypatch.context() as patched:
        spoil(page, patched.setattr)
        with pytest.raises((AssertionError, MessageRefused, ZeroDivisionError)):
            getattr(suite, f"test_{name}")()


# The whole way


@pytest.mark.django_db(transaction=True)
def test_calls_travel_by_a_queue_of_the_projects_own_to_a_worker(
    page: ModuleType, tmp_path: Path, settings: Any
) -> None:
    spool = {"kind": KIND, "path": str(tmp_path / "spool")}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"spool": spool}
    settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 43]
    call = tasks.aleave_effect.using(queue="spool")
    call.execute_on_commit(name="sent at once")
    assert [each.name for each in (tmp_path / "spool" / "ready").iterdir()]

    count = operations.run_tasks(queue="spool")

    assert (count.done, count.failed) == (1, 0)
    assert list(Effect.objects.values_list("name", flat=True)) == ["sent at once"]
    assert not list((tmp_path / "spool" / "ready").iterdir())
    assert not list((tmp_path / "spool" / "taken").iterdir())


@pytest.mark.django_db(transaction=True)
def test_what_a_queue_of_the_projects_own_did_not_take_is_relayed_later(
    page: ModuleType, tmp_path: Path, settings: Any
) -> None:
    directory = tmp_path / "spool"
    directory.write_text("a file, so that nothing can be put into it")
    spool = {"kind": KIND, "path": str(directory)}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"spool": spool}
    tasks.aleave_effect.using(queue="spool").execute_on_commit(name="relayed")
    assert TaskRecord.objects.get().sent_at is None
    directory.unlink()

    relay()

    assert TaskRecord.objects.get().sent_at is not None
    assert operations.run_tasks(queue="spool").done == 1


class UntilOne(Listener):
    """Lets a worker finish once a run has ended."""

    worker: Worker

    def ended(self, invocation_id: uuid.UUID) -> None:
        self.worker.finish()


@pytest.mark.django_db(transaction=True)
def test_a_worker_of_a_queue_that_cannot_delay_sends_in_time_what_waits_in_its_row(
    page: Any, tmp_path: Path, settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(page.DirectoryQueue, "can_delay", False)
    # As another process has the shift, nothing else relays.
    monkeypatch.setattr(runtime.Runtime, "round", SimpleNamespace(run=_no_round))
    spool = {"kind": KIND, "path": str(tmp_path / "spool")}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"spool": spool}
    tasks.aleave_effect.using(queue="spool", delay=1).execute_on_commit(name="later")
    assert not (tmp_path / "spool").exists()

    async def scene() -> None:
        listener = UntilOne()
        async with worker_of(
            runtime.Runtime(), ["spool"], drain_s=1.0, listener=listener
        ) as worker:
            listener.worker = worker
            async with asyncio.timeout(PATIENCE_S):
                await worker.run()

    asyncio.run(scene())

    assert Effect.objects.get().name == "later"


async def _no_round() -> None:
    pass


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("looks_on", [True, False])
def test_what_a_round_sends_to_a_source_that_has_ended_runs_before_the_worker_ends(
    looks_on: bool, page: Any, tmp_path: Path, settings: Any, monkeypatch: Any
) -> None:
    """The other source ends after the round, or before it; no drain is to bound the wait."""
    spools = {name: {"kind": KIND, "path": str(tmp_path / name)} for name in ("one", "other")}
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | spools
    looked = {name: asyncio.Event() for name in spools}
    round_is_over = asyncio.Event()
    pull = page.DirectorySource.pull

    async def pull_and_note(source: Any, limit: int) -> Any:
        found = await pull(source, limit)
        looked[Path(source._queue.path).name].set()
        if source._queue.path == spools["other"]["path"] and looks_on:
            await round_is_over.wait()
        return found

    async def send() -> None:
        for each in looked.values():
            await each.wait()
        await tasks.aleave_effect.using(queue="one").aexecute_on_commit(name="late")
        round_is_over.set()

    monkeypatch.setattr(page.DirectorySource, "pull", pull_and_note)
    monkeypatch.setattr(runtime.Runtime, "round", SimpleNamespace(run=send))

    async def scene() -> None:
        async with worker_of(runtime.Runtime(), [*spools], once=True, drain_s=0.0) as worker:
            async with asyncio.timeout(PATIENCE_S):
                await worker.run()
            assert worker.done == 1

    asyncio.run(scene())

    assert Effect.objects.get().name == "late"


# Mistakes


class NoQueue:
    """It does not derive from Queue."""


class Silent(Queue):
    """It lacks how messages come in."""


@dataclass(frozen=True, slots=True)
class Deaf(Queue):
    """It lacks how messages go out, and does not say so."""

    def make_transport(self, wiring: Wiring) -> Any:
        """See Queue."""


@dataclass(frozen=True, slots=True)
class Careful(Queue):
    """It checks its options, one of which is secret."""

    password: str = ""
    has_workers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if len(self.password) < 8:
            raise ValueError("password has less than 8 characters.")

    def make_transport(self, wiring: Wiring) -> Any:
        """See Queue."""


@dataclass(frozen=True, slots=True)
class Forgetful(Queue):
    """Its parse() returns nothing."""

    has_workers: ClassVar[bool] = False

    @classmethod
    def parse(cls, setting: str, name: str, value: object) -> Any:
        """See Queue."""

    def make_transport(self, wiring: Wiring) -> Any:
        """See Queue."""


HERE = __name__


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"kind": 7}, "Use the dotted path of a class"),
        ({"kind": "Careful"}, "Use the dotted path of a class"),
        ({"kind": "no.such.Queue"}, "can't be imported: ModuleNotFoundError: No module named 'no"),
        ({"kind": f"{HERE}.Nothing"}, "can't be imported"),
        ({"kind": f"{HERE}.NoQueue"}, "no subclass of lambda_tasks.queues.Queue"),
        ({"kind": f"{HERE}.Silent"}, "make_transport(), make_source(), or has_workers = False"),
        ({"kind": f"{HERE}.Deaf"}, "lacks: make_source(), or has_workers = False"),
        ({"kind": f"{HERE}.Careful", "password": "sesame"}, "password has less than 8 characters"),
        ({"kind": f"{HERE}.Careful", "pasword": "sesame-and"}, "'pasword' is not an option"),
        ({"kind": f"{HERE}.Careful", "name": "another"}, "'name' is not an option"),
        ({"kind": f"{HERE}.Forgetful"}, "returned None for these options"),
        (
            {"kind": f"{HERE}.Careful", "password": "sesame-and", "rate": "fast"},
            "'fast' is no rate",
        ),
    ],
)
def test_a_kind_that_cannot_work_is_an_error_of_the_settings(
    setting: Any, told: str, settings: Any
) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}, "own": setting}

    (problem,) = [each.msg for each in run_checks() if each.id == "lambda_tasks.E008"]

    assert told in problem
    assert "LAMBDA_TASKS_QUEUES['own']" in problem
    assert "sesame" not in problem


@pytest.mark.parametrize("name", ["own", "", 7])
def test_no_error_of_the_settings_shows_the_options_of_a_kind(name: Any, settings: Any) -> None:
    own = {"kind": f"{HERE}.Careful", "password": "sesame-and-more"}
    settings.LAMBDA_TASKS_QUEUES = {name: own}

    assert conf.errors()
    assert "sesame" not in " ".join(conf.errors())


def test_a_kind_of_the_projects_own_has_its_limits(settings: Any) -> None:
    own = {"kind": f"{HERE}.Careful", "password": "sesame-and-more", "max_timeout_s": 60}
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}, "own": own | {"rate": "5/s"}}

    queue = conf.current().queue("own")

    assert isinstance(queue, Careful)
    assert queue.max_timeout_s == 60
    assert conf.current().rate_of("own") is not None
    task: Any = tasks.add
    assert "allows at most 60 s" in next(iter(queue.problems(task, hard_timeout_s=90)))


# Sources and transports that misbehave


class Answers(PullSource):
    """A source whose queue refuses every answer."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []

    async def pull(self, limit: int) -> Sequence[Delivery]:
        return []

    async def ack(self, id: str) -> None:
        for _ in range(5):  # as long as a queue takes to answer
            await asyncio.sleep(0)
        self.told.append((id, "ack"))
        raise ConnectionError("the queue is away")

    async def nack(self, id: str, retry_after_s: float | None) -> None:
        self.told.append((id, retry_after_s))


def test_a_source_that_is_closed_has_told_its_queue_and_survives_its_refusal(caplog: Any) -> None:
    async def scene() -> Answers:
        source = Answers()
        source.settle("1", DONE)
        source.settle("2", RETURNED)
        source.settle("3", Settlement(is_final=False, retry_after_s=5.0))
        await source.aclose()
        return source

    source = asyncio.run(scene())

    assert sorted(source.told, key=lambda each: each[0]) == [("1", "ack"), ("2", None), ("3", 5.0)]
    assert "could not be told of the delivery 1" in caplog.text


class Curt:
    """A transport that forgets to answer."""

    limits = BatchLimits(max_entries=10, max_bytes=1000)

    async def send(self, batch: Sequence[Outgoing]) -> Sequence[SendFailure | None]:
        return []


@dataclass(frozen=True, slots=True)
class CurtQueue(Queue):
    """A queue with that transport."""

    has_workers: ClassVar[bool] = False

    def make_transport(self, wiring: Wiring) -> Curt:
        """See Queue."""
        return Curt()


@pytest.mark.django_db(transaction=True)
def test_a_transport_that_does_not_answer_each_message_holds_up_nobody(
    settings: Any, caplog: Any
) -> None:
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {
        "curt": {"kind": f"{HERE}.CurtQueue"}
    }

    tasks.aleave_effect.using(queue="curt").execute_on_commit(name="unanswered")

    assert "returned 0 answers to 1 messages" in caplog.text
    assert TaskRecord.objects.get().sent_at is None
    runtime.close()
