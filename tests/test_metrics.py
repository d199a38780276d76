"""Metrics: what a batch writes for CloudWatch, by the handler, its processes and the worker."""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.test import override_settings

from lambda_tasks import conf, handler, hooks, runtime
from lambda_tasks.hooks import beside
from lambda_tasks.hooks.beside import call_beside
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.clock import Now
from lambda_tasks.watching import metrics
from tests.app import tasks, watched
from tests.conftest import AMPLE_S, Handle, body, record_of, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

Line = dict[str, Any]


@pytest.fixture
def written(settings: Any, capsys: pytest.CaptureFixture[str]) -> Callable[[], list[Line]]:
    """Return the lines of metrics that this process has written since the last call."""
    settings.LAMBDA_TASKS_METRICS = "Shop"

    def read() -> list[Line]:
        assert beside.flush(AMPLE_S)
        return [json.loads(line) for line in capsys.readouterr().err.splitlines() if "_aws" in line]

    return read


Written = Callable[[], list[Line]]


def _of_queues(lines: list[Line]) -> list[Line]:
    """Leave out what a round has written, if one has come between."""
    return [each for each in lines if "queue" in each]


def _by_outcome(lines: list[Line]) -> dict[tuple[str, str], Line]:
    return {(each["task"], each["outcome"]): each for each in lines if "outcome" in each}


def _assert_valid(line: Line) -> None:
    """Assert what the specification of the format demands of a line."""
    about = line["_aws"]
    assert abs(datetime.fromtimestamp(about["Timestamp"] / 1000, UTC) - datetime.now(UTC)) < (
        timedelta(hours=1)
    )
    for directive in about["CloudWatchMetrics"]:
        assert directive["Namespace"] == "Shop"
        for dimension in directive["Dimensions"][0]:
            assert isinstance(line[dimension], str)
            assert line[dimension]
        for metric in directive["Metrics"]:
            assert metric["Unit"] in ("Milliseconds", "Count")
            values = line[metric["Name"]]
            values = values if isinstance(values, list) else [values]
            assert 1 <= len(values) <= 100
            assert all(isinstance(each, int | float) and each >= 0 for each in values)


def test_a_batch_has_a_line_for_each_task_and_outcome(handle: Handle, written: Written) -> None:
    messages = [body(watched.asay), body(watched.asay), body(watched.say), body(watched.afail)]
    messages += [body(watched.aretry_once), body(watched.continue_once)]

    handle(*messages)

    lines = written()
    found = _by_outcome(lines)
    assert {key: line["Attempts"] for key, line in found.items()} == {
        (watched.asay.name, "succeeded"): 2,
        (watched.say.name, "succeeded"): 1,
        (watched.afail.name, "failed"): 1,
        (watched.aretry_once.name, "retried"): 1,
        (watched.continue_once.name, "continued"): 1,
    }
    for line in lines:
        _assert_valid(line)
    twice = found[watched.asay.name, "succeeded"]
    durations = [record_of(each).duration for each in messages[:2]]
    assert all(each is not None for each in durations)
    expected = sorted(each.total_seconds() * 1000 for each in durations if each is not None)
    assert sorted(twice["Duration"]) == pytest.approx(expected, abs=0.01)
    counted = twice["_aws"]["CloudWatchMetrics"]
    assert [each["Dimensions"] for each in counted] == [[["task", "outcome"]], [["queue"]]]
    assert twice["queue"] == "default"
    assert twice["Successes"] == 2
    assert found[watched.afail.name, "failed"]["Failures"] == 1
    assert found[watched.aretry_once.name, "retried"]["Retries"] == 1


def test_no_id_is_a_dimension(handle: Handle, written: Written) -> None:
    message = body(watched.asay)

    handle(message)

    assert json.loads(message)["invocation_id"] not in json.dumps(written())


def test_the_wait_begins_when_the_call_is_due(handle: Handle, queue: str, written: Written) -> None:
    late = tasks.aadd.execute_on_commit(a=1).id
    planned = tasks.aadd.execute_on_commit(a=1).id
    ago = Now() - timedelta(hours=2)
    TaskRecord.objects.filter(id=late).update(enqueued_at=ago)
    due = Now() - timedelta(minutes=30)
    TaskRecord.objects.filter(id=planned).update(enqueued_at=ago, run_after=due)

    handle(*(wake_up(each, tasks.aadd.name) for each in (late, planned)))

    (line,) = _of_queues(written())
    shorter, longer = sorted(line["Wait"])
    assert 1800_000 <= shorter < 3600_000
    assert longer >= 7200_000


def test_a_lost_attempt_and_its_takeover_are_counted(
    handle: Handle, queue: str, written: Written
) -> None:
    id = tasks.aadd.execute_on_commit(a=1).id
    lost = {"status": "RUNNING", "n_attempts": 1, "start_time": Now(), "lease_until": Now()}
    TaskRecord.objects.filter(id=id).update(**lost)

    handle(wake_up(id, tasks.aadd.name))

    (line,) = _of_queues(written())
    assert (line["Takeovers"], line["Successes"]) == (1, 1)


def test_a_killed_process_and_a_timeout_are_failures_with_their_duration(
    handle: Handle, written: Written
) -> None:
    handle(body(watched.die), body(watched.sleep_too_long), body(watched.asleep_too_long))

    found = _by_outcome(written())
    assert {task for task, _ in found} == {
        watched.die.name, watched.sleep_too_long.name, watched.asleep_too_long.name
    }  # fmt: skip
    for (_, outcome), line in found.items():
        assert (outcome, line["Failures"]) == ("failed", 1)
    assert found[watched.sleep_too_long.name, "failed"]["Duration"][0] >= 1000


def test_deliveries_that_go_back_are_counted_by_queue(handle: Handle, written: Written) -> None:
    assert handle("no json", wake_up(uuid4())) == [0, 1]

    assert [(each["queue"], each["GivenBack"]) for each in _of_queues(written())] == [
        ("unknown", 1),
        ("default", 1),
    ]


def test_more_values_than_a_line_may_have_go_into_more_lines(written: Written) -> None:
    run = hooks.BatchRun(
        task_name="shop.pay", invocation_id=uuid4(), queue="default", attempt=1,
        outcome="succeeded", waited_s=None, ran_s=0.25,
    )  # fmt: skip
    call_beside(hooks.batch_ended, hooks.BatchEnded(runs=(run,) * 150, n_given_back={}))

    lines = written()

    assert [len(each["Duration"]) for each in lines] == [100, 50]
    assert [each["Attempts"] for each in lines] == [100, 50]
    assert "Wait" not in lines[0]
    for line in lines:
        _assert_valid(line)


def test_a_worker_writes_them_too(written: Written, settings: Any) -> None:
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    watched.asay.execute_on_commit()

    call_command("lambda_tasks", "worker", "--once")

    assert (watched.asay.name, "succeeded") in _by_outcome(written())


def test_what_a_command_prints_is_no_metrics(
    settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.LAMBDA_TASKS_METRICS = "Shop"
    settings.LAMBDA_TASKS_QUEUES = {"default": {"database": True}}
    watched.asay.execute_on_commit()

    call_command("lambda_tasks", "run", "--json")
    assert beside.flush(AMPLE_S)

    printed = capsys.readouterr()
    assert [json.loads(line)["kind"] for line in printed.out.splitlines()] == ["summary"]
    assert '"_aws"' in printed.err


def test_in_a_function_they_go_where_cloudwatch_looks(
    handle: Handle,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings.LAMBDA_TASKS_METRICS = "Shop"
    monkeypatch.setattr(metrics, "IN_LAMBDA", True)

    handle(body(watched.asay))
    assert beside.flush(AMPLE_S)

    assert '"_aws"' in capsys.readouterr().out


def test_a_round_writes_lag_and_backlog(written: Written, settings: Any) -> None:
    name = "each minute"
    settings.LAMBDA_TASKS_SCHEDULES = {
        name: {"task": tasks.aadd.name, "every": 60, "kwargs": {"a": 1}}
    }
    async_to_sync(runtime.current().scheduler.tick)(datetime.now(UTC) - timedelta(minutes=10))

    handler.handler({"lambda_tasks": "tick"}, LambdaContext())

    lines = written()
    for line in lines:
        _assert_valid(line)
    (tick,) = [each for each in lines if "TickLag" in each]
    (relayed,) = [each for each in lines if "RelayBacklog" in each]
    assert tick["Scheduled"] >= 1
    assert 60_000 < tick["TickLag"] < 3600_000
    assert relayed["RelayBacklog"] >= relayed["Relayed"]
    assert tick["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [[]]


def test_metrics_cost_no_statement(
    handle: Handle, settings: Any, statements: Any, written: Written
) -> None:
    def count() -> int:
        handle(body(watched.aecho, text=""))  # what only the first event does
        with statements() as executed:
            handle(body(watched.aecho, text=""), body(watched.aecho, text=""))
        return len(executed)

    with_metrics = count()
    assert written()
    settings.LAMBDA_TASKS_METRICS = None

    assert with_metrics == count()
    assert written() == []


def test_without_the_setting_nothing_is_written_and_nobody_is_called(handle: Handle) -> None:
    with override_settings(LAMBDA_TASKS_METRICS="Shop"):
        assert hooks.batch_ended
    assert not hooks.batch_ended

    with redirect_stderr(io.StringIO()) as output:
        handle(body(watched.asay))
        assert beside.flush(AMPLE_S)

    assert "_aws" not in output.getvalue()


@pytest.mark.parametrize("namespace", ["", "AWS/Lambda", "my shop", 7])
def test_a_namespace_that_cloudwatch_refuses_is_a_mistake_in_the_settings(
    settings: Any, namespace: object
) -> None:
    settings.LAMBDA_TASKS_METRICS = namespace

    with pytest.raises(
        ImproperlyConfigured, match=r"LAMBDA_TASKS_METRICS.*namespace of CloudWatch"
    ):
        conf.current()
