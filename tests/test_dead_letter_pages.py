"""Dead letters in the admin: looked at by error, chosen one by one, sent back, deleted."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from lambda_tasks import operations
from lambda_tasks.admin import dead_letters
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import TaskRecord
from lambda_tasks.ports import SendFailure
from lambda_tasks.queues import dead_letters as sqs_dead_letters
from lambda_tasks.queues.aws.errors import RequestFailed
from tests.admin_pages import Page, record, superuser, text_of, unfinished, user_with
from tests.app import tasks
from tests.conftest import bodies_in, body, wake_up

pytestmark = pytest.mark.django_db(transaction=True)

PAGE = "/admin/lambda_tasks/queuestate/default/dead-letters/"
RATE = {"per_second": "100", "limit": "500"}


class Queue:
    """The default queue in SQS, and its dead letters."""

    def __init__(self, sqs: LocalSqs) -> None:
        self._sqs = sqs
        self.url = sqs.create_queue(f"test-{uuid.uuid4().hex}", max_receive_count=5)

    def die(self, *bodies: str) -> list[str]:
        """Put bodies among the dead letters; return the ids of the messages."""
        url = operations.count_dead_letters("default")[0].url
        sent = [self._sqs.client.send_message(QueueUrl=url, MessageBody=each) for each in bodies]
        return [each["MessageId"] for each in sent]

    @property
    def n_dead(self) -> int:
        return operations.count_dead_letters("default")[0].visible

    @property
    def came_back(self) -> list[dict[str, Any]]:
        return bodies_in(self._sqs, self.url)


@pytest.fixture
def dead(sqs: LocalSqs, settings: Any, monkeypatch: Any) -> Queue:
    # The local SQS has one server, so that a poll need not wait for others.
    monkeypatch.setattr(sqs_dead_letters, "POLL_S", 0)
    queue = Queue(sqs)
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": queue.url}
    return queue


@pytest.fixture
def admin() -> Client:
    return superuser()


def asked(client: Client, **form: Any) -> tuple[str, dict[str, str]]:
    """Return the page that asks, and the form that answers it with yes."""
    response = client.post(PAGE, RATE | form)
    assert response.status_code == 200, response
    text = response.content.decode()
    return text, Page(text).fields


def a_failure() -> TaskRecord:
    return record(status="FAILED", result=None, traceback="x\nValueError: no room", queue="default")


def done(client: Client, fields: dict[str, str]) -> str:
    return client.post(PAGE, fields, follow=True).content.decode()


def call(number: int) -> str:
    return body(tasks.add, a=number, b=2)


def test_dead_letters_are_shown_by_error_each_with_its_record(admin: Client, dead: Queue) -> None:
    failed = a_failure()
    ids = dead.die(wake_up(failed.pk), call(1), call(2), "no JSON")

    page = text_of(admin, PAGE)

    said = (
        "4 dead letters", "Choose all 2", "ValueError: no room", f"{failed.pk}/change/",
        "lt-badge lt-failed", "its record is FAILED", "unreadable", "a=1 b=2",
    )  # fmt: skip
    assert [words for words in said if words not in page] == []
    values = {each["value"] for tag, each in Page(page).elements if each.get("type") == "checkbox"}
    assert set(ids) <= values, "each can be chosen"
    assert any(set(str(each).split()) == {ids[1], ids[2]} for each in values), "and a group"
    assert dead.n_dead == 4
    assert list(Page(page).violations()) == []


def test_arguments_and_errors_are_for_those_who_may_see_them(dead: Queue) -> None:
    failed = a_failure()
    dead.die(wake_up(failed.pk), call(4711))

    page = text_of(user_with("view_queuestate"), PAGE)

    assert "2 dead letters" in page
    assert [words for words in ("no room", "4711", "checkbox", "redrive") if words in page] == []


def test_those_that_were_chosen_go_back_and_no_other(admin: Client, dead: Queue) -> None:
    waiting, ended = unfinished(queue="default"), record(queue="default")
    one, two, three, _left, over = dead.die(
        call(1), call(2), wake_up(waiting.pk), call(4), wake_up(ended.pk)
    )
    chosen = [f"{one} {two}", two, three, over, "gone"]

    text, fields = asked(admin, action="redrive", _selected_action=chosen)

    assert "3 messages will go back." in text
    assert text.count("its record is SUCCESS") == 1
    assert "gone: it is gone, or somebody else looks at it" in text
    assert (dead.n_dead, dead.came_back) == (5, [])
    page = done(admin, fields)
    assert "3 messages went back." in page
    assert len(dead.came_back) == 3
    assert dead.n_dead == 2
    (entry,) = LogEntry.objects.all()
    assert entry.object_id == "default"
    assert entry.change_message.startswith("3 dead letters sent back: ")
    assert one in entry.change_message


def test_all_of_a_task_go_back_as_many_as_the_rate_allows(
    admin: Client, dead: Queue, monkeypatch: Any
) -> None:
    monkeypatch.setattr(dead_letters, "ACTION_LIMIT", timedelta(seconds=0.2))
    dead.die(*map(call, range(3)), body(tasks.leave_effect, name="x"))

    text, fields = asked(admin, action="redrive_all", task=tasks.add.name, per_second="10")

    assert "2 messages will go back." in text
    assert "lambda_tasks dlq redrive default --per-second 10" in text
    monkeypatch.undo()
    monkeypatch.setattr(sqs_dead_letters, "POLL_S", 0)
    done(admin, fields)
    assert [each["task_name"] for each in dead.came_back] == [tasks.add.name] * 2


def test_those_that_were_chosen_are_deleted_with_their_number_first(
    admin: Client, dead: Queue
) -> None:
    waiting = unfinished(queue="default")
    one, two, _left = dead.die(call(1), wake_up(waiting.pk), call(3))

    text, fields = asked(admin, action="purge", _selected_action=[one, two])

    assert "2 messages will be deleted." in text
    assert "1 of them has no record: nothing else knows of this call." in text
    assert dead.n_dead == 3
    assert "2 messages were deleted." in done(admin, fields)
    assert (dead.n_dead, dead.came_back) == (1, [])
    assert TaskRecord.objects.get().pk == waiting.pk
    assert LogEntry.objects.get().change_message == f"2 dead letters deleted: {one}, {two}."


def test_what_is_gone_since_it_was_confirmed_is_told(admin: Client, dead: Queue) -> None:
    one, two = dead.die(call(1), call(2))
    _, fields = asked(admin, action="purge", _selected_action=[one, two])
    operations.purge_dead_letters("default", ids=[one])

    page = done(admin, fields)

    assert "1 message was deleted." in page
    assert f"Skipped {one}: it is gone" in page


@pytest.mark.parametrize(
    ("permission", "action"),
    [("redrive_queuestate", "purge"), ("purge_queuestate", "redrive")],
)
def test_to_send_back_and_to_delete_are_permissions_of_their_own(
    permission: str, action: str, dead: Queue
) -> None:
    (one,) = dead.die(call(1))
    client = user_with("view_queuestate", permission)

    page = text_of(client, PAGE)

    assert f'value="{action}"' not in page
    assert 'type="checkbox"' in page
    form = {**RATE, "action": action, "_selected_action": one}
    assert client.post(PAGE, form).status_code == 403
    confirmed = {"confirmed": "yes", "chosen": json.dumps([one])}
    assert client.post(PAGE, form | confirmed).status_code == 403
    assert (dead.n_dead, dead.came_back) == (1, [])


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"action": "redrive"}, "Choose at least one message first."),
        ({"action": "purge", "chosen": "[]", "confirmed": "yes"}, "Choose at least one message"),
        ({"action": "redrive_all", "per_second": "many"}, "Messages per second: Enter a number."),
        ({"action": "redrive_all", "limit": "0"}, "Messages at most: "),
    ],
)
def test_a_form_that_makes_no_sense_says_so_and_does_nothing(
    form: dict[str, str], told: str, admin: Client, dead: Queue
) -> None:
    dead.die(call(1))

    assert told in admin.post(PAGE, RATE | form, follow=True).content.decode()

    assert (dead.n_dead, dead.came_back) == (1, [])
    assert not LogEntry.objects.exists()


def test_an_sqs_that_is_away_is_told_on_the_page(admin: Client, settings: Any) -> None:
    nobody = "http://127.0.0.1:9/000000000000/nobody"
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": nobody}

    looked = admin.get(PAGE, follow=True)
    acted = admin.post(PAGE, {**RATE, "action": "redrive_all"}, follow=True)

    for response in (looked, acted):
        assert response.status_code == 200
        assert "The queue &#x27;default&#x27;: " in response.content.decode()
    assert not LogEntry.objects.exists()


def test_an_sqs_that_is_too_slow_is_told_on_the_page(
    admin: Client, dead: Queue, monkeypatch: Any
) -> None:
    (one,) = dead.die(call(1))
    _, fields = asked(admin, action="redrive", _selected_action=one)
    for name in ("LOOK_LIMIT", "ACTION_LIMIT"):
        monkeypatch.setattr(dead_letters, name, timedelta(microseconds=1))

    looked = admin.get(PAGE, follow=True).content.decode()
    acted = admin.post(PAGE, fields).headers["Location"]

    assert "SQS was too slow to show them all" in looked
    assert acted == PAGE
    monkeypatch.undo()
    assert "SQS was too slow for all of them" in text_of(admin, "/admin/")
    assert dead.came_back == []


def test_what_was_done_before_sqs_failed_is_in_the_log(
    admin: Client, dead: Queue, monkeypatch: Any
) -> None:
    ids = dead.die(call(1), call(2))
    _, fields = asked(admin, action="redrive", _selected_action=ids)
    monkeypatch.setattr(sqs_dead_letters.DeadLetterQueue, "send_back", failing_after(1))

    page = done(admin, fields)

    assert "1 message went back." in page
    assert "SQS is away" in page
    entry = LogEntry.objects.get().change_message
    assert entry == "1 dead letter sent back, then SQS has failed."


def failing_after(n: int) -> Callable[..., Any]:
    """A `send_back` that fails after so many messages."""
    send_back = sqs_dead_letters.DeadLetterQueue.send_back
    sent: list[Any] = []

    async def send_or_fail(*args: Any) -> None:
        if len(sent) == n:
            raise RequestFailed(SendFailure("SQS is away", retryable=True))
        sent.append(args)
        await send_back(*args)

    return send_or_fail
