"""Sentry: one event for each last failure, in the task's scope and in the caller's trace."""

import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from pydantic import SecretStr

from lambda_tasks import handler, hooks
from lambda_tasks.context import SCHEDULE_HEADER
from lambda_tasks.hooks import beside
from lambda_tasks.hooks.calling import call_receiver
from lambda_tasks.models import TaskRecord
from tests.app import capturing, watched
from tests.conftest import AMPLE_S, Handle, Task, body, record_of, wake_up

sentry_sdk = pytest.importorskip("sentry_sdk")

from lambda_tasks.watching import sentry  # noqa: E402

pytestmark = pytest.mark.django_db(transaction=True)

Captured = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def captured(handle: Handle, tmp_path: Path, settings: Any) -> Iterator[Captured]:
    """Return what this process and its worker process have sent to Sentry."""
    elsewhere = tmp_path / "captured"
    elsewhere.touch()
    settings.LAMBDA_TASKS_PROCESSES = 1  # any idle process may take the next task
    handler.close()
    handle(body(watched.capture_to, path=str(elsewhere)))
    here: list[dict[str, Any]] = []
    capturing.init(here.append)
    watch = sentry.instrument()

    def read() -> list[dict[str, Any]]:
        assert beside.flush(AMPLE_S)
        return here + [json.loads(each) for each in elsewhere.read_text().splitlines()]

    yield read
    watch.disconnect()
    capturing.close()
    handler.close()


def _of(kind: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in items if each.get("type", "event") == kind]


def _transaction_of(task: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [each for each in _of("transaction", items) if each["transaction"] == task]
    return found


@pytest.mark.parametrize(
    ("task", "error"),
    [
        (watched.afail, "LookupError"),
        (watched.fail, "LookupError"),
        (watched.sleep_too_long, "HardTimeLimitExceeded"),
        (watched.asleep_too_long, "HardTimeLimitExceeded"),
        (watched.die, None),
    ],
    ids=["async", "sync", "sync timeout", "async timeout", "killed"],
)
def test_a_last_failure_is_one_event_with_the_tags_of_its_run(
    task: Task, error: str | None, handle: Handle, captured: Captured
) -> None:
    message = body(task)

    handle(message)

    (event,) = _of("event", captured())
    record = record_of(message)
    tags = {
        "invocation_id": str(record.id), "root_id": str(record.id), "task_name": task.name,
        "attempt": "1", "queue": "default",
    }  # fmt: skip
    assert tags.items() <= event.get("tags", {}).items(), event
    assert event["transaction"] == task.name
    if error is not None:
        assert event["exception"]["values"][-1]["type"] == error


def test_a_failure_of_djangos_own_task_is_one_event(
    handle: Handle, queue: str, captured: Captured
) -> None:
    watched.django_fail.enqueue()
    record = TaskRecord.objects.get(task_name="tests.app.watched.django_fail")

    handle(wake_up(record.id, record.task_name, record.backend))

    (event,) = _of("event", captured())
    assert event["tags"]["invocation_id"] == str(record.id)


def test_a_secret_stays_out_of_an_event(handle: Handle, captured: Captured) -> None:
    handle(body(watched.aspeak_and_fail_with, token=SecretStr("swordfish and chips")))

    items = captured()
    (event,) = _of("event", items)
    said = [each["message"] for each in event["breadcrumbs"]["values"]]
    assert "the token is **********" in said
    assert "swordfish" not in json.dumps(items, default=str)


def test_what_is_retried_is_no_event(handle: Handle, queue: str, captured: Captured) -> None:
    watched.aretry_once.execute_on_commit()
    for _ in range(2):
        record = TaskRecord.objects.get(status="QUEUED")
        TaskRecord.objects.filter(id=record.id).update(run_after=None)
        handle(wake_up(record.id, record.task_name))

    items = captured()
    assert _of("event", items) == []
    runs = [
        each for each in _of("transaction", items) if each["transaction"].endswith("retry_once")
    ]
    assert [each["contexts"]["trace"]["status"] for each in runs] == ["ok", "ok"]
    assert len({each["contexts"]["trace"]["trace_id"] for each in runs}) == 1
    counts = [each["contexts"]["trace"]["data"]["messaging.message.retry.count"] for each in runs]
    assert counts == [0, 1]


@pytest.mark.parametrize("task", [watched.say, watched.asay], ids=["sync", "async"])
def test_a_task_continues_the_trace_of_its_caller(
    task: Task, handle: Handle, queue: str, captured: Captured
) -> None:
    with sentry_sdk.start_transaction(op="http.server", name="/checkout") as request:
        id = task.execute_on_commit().id

    handle(wake_up(id, task.name))

    items = captured()
    run, page = _transaction_of(task.name, items), _transaction_of("/checkout", items)
    trace = run["contexts"]["trace"]
    assert (trace["trace_id"], trace["op"]) == (request.trace_id, "queue.process")
    (publish,) = [each for each in page["spans"] if each["op"] == "queue.publish"]
    assert trace["parent_span_id"] == publish["span_id"]
    assert trace["data"]["messaging.message.receive.latency"] > 0
    assert trace["data"]["messaging.message.id"] == str(id)


def test_runs_at_the_same_time_have_scopes_of_their_own(handle: Handle, captured: Captured) -> None:
    names = ["a", "b", "c"]

    handle(*(body(watched.atag_and_fail, name=each) for each in names))

    events = _of("event", captured())
    assert sorted(each["tags"]["own"] for each in events) == names
    assert "own" not in sentry_sdk.get_isolation_scope()._tags


def test_a_schedule_makes_its_monitor_and_checks_in(
    handle: Handle, queue: str, captured: Captured, settings: Any
) -> None:
    entry = {"task": watched.asay.name, "cron": "30 2 * * *", "timezone": "Europe/Berlin"}
    settings.LAMBDA_TASKS_SCHEDULES = {"every night": entry}
    good = watched.asay.using(headers={SCHEDULE_HEADER: "every night"}).execute_on_commit().id
    bad = watched.afail.using(headers={SCHEDULE_HEADER: "every night"}).execute_on_commit().id

    handle(wake_up(good, watched.asay.name))
    handle(wake_up(bad, watched.afail.name))

    items = captured()
    runs = [_transaction_of(each.name, items) for each in (watched.asay, watched.afail)]
    assert len({each["contexts"]["trace"]["trace_id"] for each in runs}) == 2
    found = _of("check_in", items)
    assert [(each["check_in_id"], each["status"]) for each in found] == [
        (good.hex, "in_progress"), (good.hex, "ok"), (bad.hex, "in_progress"), (bad.hex, "error")
    ]  # fmt: skip
    assert {each["monitor_slug"] for each in found} == {"every-night"}
    assert found[0]["monitor_config"] == {
        "schedule": {"type": "crontab", "value": "30 2 * * *"},
        "timezone": "Europe/Berlin",
    }


@pytest.mark.parametrize("is_function", [True, False], ids=["function", "worker"])
@pytest.mark.parametrize(
    ("outcome", "headers", "sent"),
    [
        ("succeeded", {SCHEDULE_HEADER: "every night"}, ["check-in", "flush"]),
        ("failed", {}, ["flush"]),
        ("succeeded", {}, []),
    ],
    ids=["check-in", "error", "neither"],
)
def test_what_must_not_be_lost_leaves_a_worker_process_at_once(
    outcome: hooks.Ending,
    headers: dict[str, str],
    sent: list[str],
    *,
    is_function: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(sentry, "IN_LAMBDA", is_function)
    monkeypatch.setattr(multiprocessing, "parent_process", object)  # as in a worker process
    monkeypatch.setattr(sentry, "capture_checkin", lambda **_: done.append("check-in"))
    monkeypatch.setattr(sentry_sdk, "flush", lambda _: done.append("flush"))
    id = uuid4()
    ended = hooks.Ended(
        task_name=watched.say.name, invocation_id=id, queue="default", root_id=id, attempt=1,
        headers=headers, n_retries=0, metadata={}, outcome=outcome, error=None, traceback=None,
        ran_s=1.0, next_id=None,
    )  # fmt: skip

    call_receiver(sentry.Watch().end, ended)

    assert done == (sent or (["flush"] if is_function else []))


def test_a_function_sends_what_a_batch_or_a_round_has_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sentry, "IN_LAMBDA", True)
    watch = sentry.instrument()
    try:
        assert watch.flush in hooks.batch_ended.receivers
        assert watch.flush in hooks.ticked.receivers
    finally:
        watch.disconnect()
    assert not hooks.ticked


def test_a_process_is_followed_once_however_often_it_asks() -> None:
    kept: list[dict[str, Any]] = []
    capturing.init(kept.append)
    log = partial(
        logging.getLogger("lambda_tasks.task").error, "killed", extra={"root_id": "7", "attempt": 1}
    )

    try:
        for _ in range(25):  # a scope of Sentry's forgets its processors where it has twenty
            watch = sentry.instrument()
            assert sentry.instrument() is watch
            log()
            watch.disconnect()
        log()
    finally:
        sentry.instrument().disconnect()
        capturing.close()

    tags = [each.get("tags") for each in kept]
    assert tags == [{"root_id": "7", "attempt": "1"}] * 25 + [None]


def test_the_worker_reports_too(settings: Any, captured: Captured) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    watched.afail.execute_on_commit()

    call_command("lambda_tasks", "worker", "--once")

    (event,) = _of("event", captured())
    assert event["tags"]["task_name"] == watched.afail.name
