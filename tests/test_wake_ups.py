"""The row is what runs: a message only says where it is, and nothing is imported on its word."""

import importlib
import json
import logging
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta
from functools import partial
from threading import Event
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils.timezone import now
from pydantic import SecretStr

from lambda_tasks import MessageTooLarge, handler, registry
from lambda_tasks.local import LambdaContext, LocalSqs
from lambda_tasks.models import TaskRecord
from tests.app import django_tasks, secretive, tasks
from tests.app.models import Effect
from tests.conftest import PATIENCE_S, Handle, bodies_in, body, record_of, sqs_event, wake_up
from tests.servers import FaultySqs

pytestmark = pytest.mark.django_db(transaction=True)


def direct(message: str, **changes: Any) -> str:
    content = {key: value for key, value in json.loads(message).items() if key != "durable"}
    return json.dumps(content | changes)


def test_a_durable_message_carries_its_id_and_its_tasks_name_alone(
    queue: str, sqs: LocalSqs
) -> None:
    id = tasks.add.using(group_key="tenant").execute_on_commit(a=1).id
    secret = secretive.pay.execute_on_commit(account="a", token=SecretStr("hush")).id

    assert sorted(bodies_in(sqs, queue), key=str) == sorted(
        [json.loads(wake_up(id)), json.loads(wake_up(secret, "tests.app.secretive.pay"))], key=str
    )


def test_a_thousand_calls_with_much_to_say_need_a_hundred_requests(
    queue: str, sqs: LocalSqs, settings: Any
) -> None:
    with FaultySqs(sqs.endpoint_url) as proxy:
        url = queue.replace(sqs.endpoint_url, proxy.endpoint_url)
        settings.LAMBDA_TASKS_QUEUES = {"default": url}
        with transaction.atomic():
            tasks.echo.execute_many_on_commit([{"value": "x" * 100_000}] * 1000)

        assert proxy.requests["SendMessageBatch"] == 100


def test_what_a_record_may_keep_is_for_the_setting_to_say(queue: str, settings: Any) -> None:
    settings.LAMBDA_TASKS_MAX_ARGUMENT_BYTES = 1000

    tasks.echo.execute_on_commit(value="x" * 900)
    with pytest.raises(MessageTooLarge, match="LAMBDA_TASKS_MAX_ARGUMENT_BYTES allows 1000"):
        tasks.echo.execute_on_commit(value="x" * 1000)


def test_arguments_larger_than_sqs_takes_arrive(queue: str, sqs: LocalSqs, handle: Handle) -> None:
    tasks.echo.execute_on_commit(value="x" * 2_000_000)

    assert handle(*map(json.dumps, bodies_in(sqs, queue))) == []

    assert TaskRecord.objects.get().result == "x" * 2_000_000


@pytest.mark.parametrize(
    "changes",
    [
        {"task_name": "tests.app.tasks.leave_effect", "kwargs": {"name": "forged"}},
        {"kwargs": {"a": 666}},
        {"kwargs": {}, "args": [1]},
        {"backend": "default"},
    ],
    ids=["another task", "other arguments", "other positional ones", "another backend"],
)
@pytest.mark.parametrize("durable", [{}, {"durable": True}], ids=["direct", "durable"])
@pytest.mark.parametrize("batch", [["forged"], ["forged", "honest"], ["honest", "forged"]])
def test_a_body_that_differs_from_its_record_is_refused_and_told(
    queue: str,
    handle: Handle,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    durable: dict[str, Any],
    batch: list[str],
) -> None:
    invocation = tasks.add.execute_on_commit(a=1)
    forged = direct(body(tasks.add, _id=invocation.id, a=1), **changes, **durable)
    honest = wake_up(invocation.id)

    with caplog.at_level(logging.ERROR):
        back = handle(*[{"forged": forged, "honest": honest}[each] for each in batch])

    assert not Effect.objects.exists()
    assert batch.index("forged") in back
    assert "The message may have been written by someone outside this" in caplog.text
    record = TaskRecord.objects.get()
    assert (record.task_name, record.kwargs) == ("tests.app.tasks.add", {"a": 1})
    if record.status != "SUCCESS":
        assert (record.status, record.n_attempts, record.worker_ids or "") == ("QUEUED", 0, "")
    assert handle(honest) == []
    record.refresh_from_db()
    assert (record.status, record.result, record.n_attempts) == ("SUCCESS", 3, 1)


@pytest.mark.parametrize(
    "changes",
    [{"task_name": "tests.app.tasks.leave_effect"}, {"kwargs": {"a": 666}}, {"backend": "default"}],
    ids=["another task", "other arguments", "another backend"],
)
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_forged_body_takes_no_honest_one_along(
    queue: str, handle: Handle, changes: dict[str, Any], durable: bool, is_first: bool
) -> None:
    honest = wake_up(tasks.add.execute_on_commit(a=1).id)
    forged = json.dumps({**json.loads(honest), "kwargs": {"a": 1}, "durable": durable, **changes})

    batch = [forged, honest] if is_first else [honest, forged]
    assert handle(*batch) == [batch.index(forged)]

    record = TaskRecord.objects.get()
    assert (record.status, record.result, record.n_attempts) == ("SUCCESS", 3, 1)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_forged_body_that_is_sent_again_does_not_stand_for_an_honest_one(
    queue: str, sqs: LocalSqs, is_first: bool
) -> None:
    id = tasks.add.execute_on_commit(a=1).id
    bodies_in(sqs, queue)
    TaskRecord.objects.update(
        status="RUNNING", n_attempts=1, worker_ids="w\n", claim_token=uuid.uuid4(),
        start_time=now(), lease_until=now() + timedelta(minutes=5),
    )  # fmt: skip
    honest, forged = wake_up(id), wake_up(id, backend="default")
    event = sqs_event(*([forged, honest] if is_first else [honest, forged]))
    for each in event["Records"]:
        each["attributes"]["ApproximateReceiveCount"] = "3" if each["body"] == forged else "1"

    answer = handler.handler(event, LambdaContext())

    assert len(answer["batchItemFailures"]) == 2


def test_a_body_of_an_earlier_release_is_compared_and_runs(queue: str, handle: Handle) -> None:
    invocation = tasks.add.execute_on_commit(a=1)

    assert handle(direct(body(tasks.add, _id=invocation.id, a=1), durable=True)) == []

    assert TaskRecord.objects.get().result == 3


@pytest.mark.parametrize("value", [1.5e300, 2**70, 1e22, -0.0, 1e-7, {"b": 1, "a": [1.0, True]}])
def test_what_comes_again_is_the_same_however_the_database_keeps_it(
    handle: Handle, value: Any
) -> None:
    message = body(tasks.echo, value=value)
    assert handle(message) == []
    TaskRecord.objects.update(
        status="RUNNING", n_attempts=1, worker_ids="w\n", claim_token=uuid.uuid4(), end_time=None,
        start_time="2020-01-01T00:00:00Z", lease_until="2020-01-01T00:00:00Z",
    )  # fmt: skip

    assert handle(message) == []

    assert record_of(message).n_attempts == 2


def test_a_forged_name_does_not_let_a_lost_run_be_repeated(queue: str, handle: Handle) -> None:
    id = tasks.add_once.execute_on_commit(a=1).id
    TaskRecord.objects.update(
        status="RUNNING", n_attempts=1, worker_ids="w\n", claim_token=uuid.uuid4(),
        start_time="2020-01-01T00:00:00Z", lease_until="2020-01-01T00:00:00Z",
    )  # fmt: skip
    before = TaskRecord.objects.values().get()

    assert handle(wake_up(id, "tests.app.tasks.add")) == [0]
    assert handle(direct(body(tasks.add, _id=id, a=1))) == [0]

    assert TaskRecord.objects.values().get() == before


def test_a_forged_name_does_not_fail_a_lost_run_that_may_be_repeated(
    queue: str, handle: Handle
) -> None:
    id = tasks.add.execute_on_commit(a=1).id
    TaskRecord.objects.update(
        status="RUNNING", n_attempts=1, worker_ids="w\n", claim_token=uuid.uuid4(),
        start_time="2020-01-01T00:00:00Z", lease_until="2020-01-01T00:00:00Z",
    )  # fmt: skip

    assert handle(wake_up(id, "tests.app.tasks.add_once")) == [0]
    assert handle(wake_up(id)) == []

    assert TaskRecord.objects.get().result == 3


def test_the_links_of_a_direct_message_are_ignored(queue: str, handle: Handle) -> None:
    victim = tasks.add.execute_on_commit(a=1).id
    forged = direct(body(tasks.add, a=41), root_id=str(victim), retry_of=str(victim))

    assert handle(forged) == []

    record = record_of(forged)
    assert (record.root_id, record.retry_of) == (record.id, None)


@pytest.mark.parametrize(
    "name",
    [
        "tests.app.wiping.x",
        "tests.app.unloaded.add",
        "tests.app.__main__.x",
        "lambda_tasks.execution.preload.x",
        "lambda_tasks.local.dev.x",
    ],
)
@pytest.mark.parametrize("durable", [{}, {"durable": True}], ids=["direct", "durable"])
def test_nothing_is_imported_on_a_messages_word(
    queue: str, handle: Handle, name: str, durable: dict[str, Any]
) -> None:
    registry.discover()  # as at the start
    assert handle(body(tasks.add, a=1)) == []  # what any first run imports
    TaskRecord.objects.all().delete()
    sys.modules.pop(name.rpartition(".")[0], None)
    before = set(sys.modules)

    forged = direct(body(tasks.add, a=1), task_name=name, **durable)

    assert handle(forged, body(tasks.add, a=2)) == [0]
    assert set(sys.modules) - before == set()
    assert [record.result for record in TaskRecord.objects.all()] == [4]


@pytest.fixture
def undiscovered(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A project of two modules, of which one fails."""
    modules = ["tests.app.wiping", "tests.app.unloaded"]
    monkeypatch.setitem(registry._state, "discovered", False)
    monkeypatch.setattr(registry, "_task_modules", lambda: modules)
    for name in modules:
        sys.modules.pop(name, None)
    return monkeypatch


@pytest.mark.usefixtures("undiscovered")
def test_a_module_that_fails_takes_no_other_along() -> None:
    found = registry.resolve("tests.app.unloaded.add", may_import=False)

    assert found.name == "tests.app.unloaded.add"
    for _ in range(2):  # it is tried again
        with pytest.raises(SystemExit):
            registry.discover()


def test_who_asks_while_tasks_are_loaded_waits_for_them(undiscovered: pytest.MonkeyPatch) -> None:
    begun, goes_on = Event(), Event()

    def import_slowly(name: str) -> None:
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        with suppress(SystemExit):
            importlib.import_module(name)

    undiscovered.setattr(registry, "_import_error", import_slowly)
    resolve = partial(registry.resolve, "tests.app.unloaded.add", may_import=False)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(resolve)
        assert begun.wait(PATIENCE_S)
        second = threads.submit(resolve)
        wait([second], 0.2)
        goes_on.set()

        assert first.result().name == second.result().name == "tests.app.unloaded.add"


def test_what_its_record_names_is_imported(queue: str, sqs: LocalSqs, handle: Handle) -> None:
    unloaded = importlib.import_module("tests.app.unloaded")
    id = unloaded.add.execute_on_commit(a=1).id
    sys.modules.pop("tests.app.unloaded")

    assert handle(wake_up(id, "tests.app.unloaded.add"), body(tasks.add, a=2)) == []

    assert set(TaskRecord.objects.values_list("result", flat=True)) == {2, 4}


def test_a_task_of_another_interface_runs_from_its_record(
    queue: str, sqs: LocalSqs, handle: Handle
) -> None:
    result = django_tasks.add.enqueue(1, b=2)

    bodies = bodies_in(sqs, queue)
    assert [each.keys() for each in bodies] == [
        {"task_name", "invocation_id", "durable", "backend"}
    ]
    assert handle(*map(json.dumps, bodies)) == []
    result.refresh()
    assert result.return_value == 3


def test_what_can_not_be_decrypted_waits_and_holds_up_nobody(
    queue: str, handle: Handle, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    id = secretive.pay.execute_on_commit(account="a", token=SecretStr("hush")).id
    settings.SECRET_KEY = "another"

    assert handle(wake_up(id, "tests.app.secretive.pay"), body(tasks.add, a=1)) == [0]
    record = TaskRecord.objects.get(id=id)
    assert (record.status, record.n_attempts) == ("QUEUED", 0)
    assert "keep old keys in LAMBDA_TASKS_SECRETS_KEYS" in caplog.text

    settings.SECRET_KEY_FALLBACKS = ["for tests only"]
    assert handle(wake_up(id, "tests.app.secretive.pay")) == []
    assert TaskRecord.objects.get(id=id).status == "SUCCESS"


@pytest.mark.skipif(connection.vendor != "postgresql", reason="another takes a statement more")
def test_what_runs_comes_with_the_claim(queue: str, handle: Handle, statements: Any) -> None:
    tasks.add.execute_on_commit(a=0)
    first, second = (tasks.add.execute_on_commit(a=a).id for a in (1, 2))
    assert handle(wake_up(first)) == []

    with statements() as executed:
        assert handle(wake_up(second)) == []

    selects = [each for each in executed if each.startswith("SELECT")]
    assert selects == []
