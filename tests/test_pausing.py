"""A paused queue hands out nothing, and loses nothing."""

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from lambda_tasks import operations, runtime
from lambda_tasks.enqueue import marker
from lambda_tasks.errors import InvalidFilter
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.records.encryption import UNAVAILABLE
from tests.app import tasks
from tests.app.models import Effect
from tests.conftest import Handle, body, relay, wait_for, wake_up
from tests.test_operations import record
from tests.test_verbs import refused, verb

pytestmark = pytest.mark.django_db(transaction=True)

IN_TABLE = tasks.leave_effect.using(queue="table")
DIRECT = tasks.leave_effect_direct
EMPTY = {"visible": 0, "in_flight": 0, "delayed": 0}


def _received() -> list[Any]:
    with runtime.current().table_queue.lock_due(["table"], limit=10) as due:
        return list(due)


def test_no_worker_gets_the_calls_of_a_paused_queue() -> None:
    operations.pause_queue("table", by="anna", reason="the shop moves")
    IN_TABLE.execute_on_commit(name="later")

    assert _received() == []

    operations.resume_queue("table", by="anna")

    assert len(_received()) == 1


def test_what_arrives_from_a_paused_queue_waits_in_its_row_until_it_is_resumed(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    called = tasks.leave_effect.execute_on_commit(name="later")
    operations.pause_queue("default", by="anna")

    assert work_off(queue) == 1

    record = TaskRecord.objects.get(id=called.id)
    assert (record.status, record.sent_at, record.n_attempts) == ("QUEUED", None, 0)
    assert sqs.counts(queue) == EMPTY
    assert relay() == 0, "the relay holds it back"

    operations.resume_queue("default", by="anna")

    assert relay() == 1
    assert work_off(queue) == 1
    assert Effect.objects.get().name == "later"


@pytest.mark.parametrize("resumes_first", [False, True])
def test_what_is_parked_before_its_sender_marks_it_is_sent_again(
    sqs: LocalSqs,
    queue: str,
    work_off: Callable[[str], int],
    settings: Any,
    monkeypatch: Any,
    resumes_first: bool,
) -> None:
    settings.LAMBDA_TASKS_WAIT_FOR_SEND = False
    monkeypatch.setattr(marker, "GATHER_FOR_S", 600)
    operations.pause_queue("default", by="anna")
    tasks.leave_effect.execute_on_commit(name="later")
    wait_for(lambda: sqs.counts(queue)["visible"] == 1)
    assert work_off(queue) == 1

    if resumes_first:
        operations.resume_queue("default", by="anna")
    here = runtime.current()
    here.portal.call(here.background.drain)
    operations.resume_queue("default", by="anna")

    assert relay() == 1
    assert work_off(queue) == 1
    assert Effect.objects.get().name == "later"


def test_a_sender_that_waits_leaves_what_it_sends_to_a_paused_queue_unmarked(
    sqs: LocalSqs, queue: str, work_off: Callable[[str], int]
) -> None:
    operations.pause_queue("default", by="anna")

    called = tasks.leave_effect.execute_on_commit(name="later")

    # Its message may have come back to the row before it would be marked.
    assert TaskRecord.objects.get(id=called.id).sent_at is None
    operations.resume_queue("default", by="anna")
    assert relay() == 1
    assert work_off(queue) == 2
    assert Effect.objects.get().name == "later"


def test_a_direct_call_runs_though_its_queue_is_paused(queue: str, handle: Handle) -> None:
    operations.pause_queue("default", by="anna")

    assert handle(body(DIRECT, name="now")) == []

    assert Effect.objects.get().name == "now"


def test_a_call_whose_secrets_are_in_its_message_only_runs(queue: str, handle: Handle) -> None:
    # Put back, as it came too early, it has a row, and no secrets there.
    later = body(DIRECT, name="now")
    called = json.loads(later)["invocation_id"]
    TaskRecord.objects.create(
        id=called, task_name="tests.app.tasks.leave_effect_direct", kwargs={"name": "now"},
        secrets=UNAVAILABLE, enqueued_at=timezone.now(), look_at=timezone.now(),
    )  # fmt: skip
    operations.pause_queue("default", by="anna")

    assert handle(later) == []

    assert Effect.objects.get().name == "now"


def test_a_lost_run_is_not_taken_over_while_its_queue_is_paused(queue: str, handle: Handle) -> None:
    lost = tasks.leave_effect.execute_on_commit(name="again")
    past = timezone.now() - timedelta(hours=1)
    times = dict.fromkeys(("lease_until", "start_time", "look_at", "sent_at", "enqueued_at"), past)
    TaskRecord.objects.update(status="RUNNING", n_attempts=1, **times)
    operations.pause_queue("default", by="anna")

    assert handle(wake_up(lost.id, "tests.app.tasks.leave_effect")) == []

    assert not Effect.objects.exists()
    assert relay() == 0
    operations.resume_queue("default", by="anna")
    assert relay() == 1


def test_a_switch_says_whether_it_has_changed_anything(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "lambda_tasks"):
        assert operations.pause_queue("table", by="anna", reason="the shop moves")
        assert not operations.pause_queue("table", by="ben")
    assert operations.queue_states()["table"].changed_by == "anna"
    assert operations.resume_queue("table", by="ben")
    assert not operations.resume_queue("table", by="ben")

    assert "The queue 'table' was paused by anna. the shop moves" in caplog.text
    with pytest.raises(InvalidFilter, match="unknown"):
        operations.pause_queue("unknown", by="anna")


# The verbs


def test_the_story_of_a_call_says_who_has_paused_its_queue(queue: str) -> None:
    called = tasks.leave_effect.execute_on_commit(name="later")
    assert "has paused" not in verb("show", str(called.id)).output

    operations.pause_queue("default", by="anna")

    assert "its queue, which anna has paused" in verb("show", str(called.id)).output


def _paused() -> set[str]:
    return {name for name, each in operations.queue_states().items() if each.is_paused}


def test_the_verbs_pause_and_resume_queues_and_say_so() -> None:
    done = verb("pause", "table", "other", "--yes", "--reason", "the shop moves", "--by", "anna")

    assert (done.code, done.output) == (0, "table was paused.\nother was paused.\n")
    assert _paused() == {"table", "other"}
    state = operations.queue_states()["table"]
    assert (state.changed_by, state.reason) == ("anna", "the shop moves")

    again = verb("pause", "other", "fifo", "--yes", "--json")

    assert again.code == 0
    changed = {each["queue"]: each["is_changed"] for each in again.of_kind("queue_switched")}
    assert changed == {"other": False, "fifo": True}
    (summary,) = again.of_kind("summary")
    assert (summary["what"], summary["done"], summary["skipped"]) == ("paused", 1, 1)

    assert verb("resume", "table", "other", "fifo", "--yes").code == 0
    nothing = verb("resume", "table", "--yes")
    assert (nothing.code, nothing.output) == (3, "table is not paused.\n")
    assert _paused() == set()


def test_a_dry_run_pauses_nothing_and_so_does_nobody_at_a_terminal() -> None:
    done = verb("pause", "table", "--dry-run")

    assert (done.code, done.output) == (0, "table would be paused.\n")
    assert "Add --yes" in refused("pause", "table")
    assert _paused() == set()


def test_with_a_queue_that_there_is_not_none_is_paused() -> None:
    assert "There is no queue 'tabel'" in refused("pause", "table", "tabel", "--yes")
    assert _paused() == set()


def test_what_counts_queues_says_which_are_paused() -> None:
    operations.pause_queue("table", by="anna", reason="the shop moves")

    text = verb("stats").output
    queues = {each["name"]: each["is_paused"] for each in verb("stats", "--json").of_kind("queue")}
    (described,) = operations.describe_queues("table")

    assert "table is paused by anna since 20" in text
    assert ": the shop moves." in text
    assert (queues["table"], queues["default"]) == (True, False)
    assert (described.is_paused, described.reason) == (True, "the shop moves")
    assert "paused by anna: the shop moves" in verb("queues", "describe", "table").output


def test_health_says_that_the_oldest_call_waits_in_a_paused_queue() -> None:
    record("QUEUED", queue="table")
    unwell = "The oldest call waits for"

    def told(**options: Any) -> str:
        return " ".join(each.message for each in operations.health(**options).problems)

    assert unwell in told()
    assert "is paused" not in told()
    operations.pause_queue("table", by="anna")
    assert "The queue 'table' is paused." in told()
    assert "The queue 'table' is paused." in told(queue="table")
