"""The admin's pages of schedules: how each stands, and pause, resume and run now."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from lambda_tasks import scheduling
from lambda_tasks.admin.schedule_page import in_words
from lambda_tasks.context import SCHEDULE_HEADER
from lambda_tasks.core.schedules import Once, make_cron, make_every
from lambda_tasks.declared_schedules import declared
from lambda_tasks.models import ScheduleState, TaskRecord
from lambda_tasks.runtime import current
from tests.admin_pages import LIST, SCHEDULES, Page, answer, chosen, superuser, text_of, user_with

pytestmark = pytest.mark.django_db(transaction=True)

DECLARED: dict[str, dict[str, Any]] = {
    "nightly": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
    "poll": {"every": timedelta(seconds=20)},
}


@pytest.fixture
def admin() -> Client:
    return superuser()


@pytest.fixture(autouse=True)
def states(settings: Any, queue: str) -> dict[str, ScheduleState]:
    """The rows of two schedules, as a tick writes them."""
    task = {"task": "tests.app.tasks.add", "kwargs": {"a": 1, "b": 2}}
    settings.LAMBDA_TASKS_SCHEDULES = {name: task | rule for name, rule in DECLARED.items()}
    _note("nightly", "poll")
    return {state.name: state for state in ScheduleState.objects.all()}


def _note(*names: str) -> None:
    schedules = declared()
    rules = {name: (schedules[name].task_name, schedules[name].schedule) for name in names}
    current().schedule_table.note(rules)


def _page_of(name: str) -> str:
    return f"{SCHEDULES}{name}/change/"


def _log() -> list[tuple[str, str, str]]:
    return [
        (each.user.get_username(), each.object_repr, each.change_message)
        for each in LogEntry.objects.order_by("pk")
    ]


def test_the_list_says_when_each_is_due_and_what_became_of_the_last(
    admin: Client, states: dict[str, ScheduleState]
) -> None:
    rule = declared()["nightly"].schedule.rule
    last = next(rule.until(datetime.now(UTC)))
    run = TaskRecord.objects.create(
        id=states["nightly"].run_id(last), task_name="tests.app.tasks.add", kwargs={},
        status="FAILED", enqueued_at=last,
    )  # fmt: skip

    page = text_of(admin, SCHEDULES)

    coming = [f"{due.astimezone():%Y}" for due in islice(rule.after(datetime.now(UTC)), 3)]
    assert page.count("02:30") >= 1 + len(coming) + 1
    for words in (
        "At 02:30 every day", "30 2 * * * Europe/Berlin", "Every 20 seconds", "FAILED",
        f"{LIST}{run.pk}/change/",
    ):  # fmt: skip
        assert words in page


def test_a_list_of_many_asks_for_their_runs_once(
    admin: Client, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(9):
        text_of(admin, SCHEDULES)


def test_a_schedule_says_who_has_paused_it_and_why(admin: Client) -> None:
    scheduling.disable_schedule("poll", by="tom", reason="The API is down")

    pages = [text_of(admin, SCHEDULES), text_of(admin, _page_of("poll"))]

    assert [page.count("next:") for page in pages] == [1, 0]
    for page in pages:
        for words in (">off<", "tom", "The API is down"):
            assert words in page
    assert 'name="_save"' not in pages[1]
    assert "Resume…" in pages[1]
    assert "Pause…" not in pages[1]
    assert not _shows(text_of(admin, SCHEDULES, state="on"), "poll")
    assert _shows(text_of(admin, SCHEDULES, state="off"), "poll")


def test_a_schedule_says_how_many_of_its_runs_were_skipped(
    admin: Client, states: dict[str, ScheduleState]
) -> None:
    ScheduleState.objects.filter(name="poll").update(n_skipped=4321)

    assert "4321" in text_of(admin, _page_of("poll"))


def _shows(page: str, name: str) -> bool:
    return _page_of(name) in page


def test_pause_and_resume_ask_why_and_leave_a_trace(
    admin: Client, states: dict[str, ScheduleState]
) -> None:
    both = chosen(*states.values(), action="pause")

    asked = admin.post(SCHEDULES, both).content.decode()
    assert not ScheduleState.objects.filter(is_enabled=False).exists()
    page = answer(admin, SCHEDULES, both, reason=" Stock take ")
    again = answer(admin, SCHEDULES, both)
    answer(admin, SCHEDULES, chosen(states["poll"], action="resume"), reason="Done")

    assert "2 schedules will be paused." in asked
    assert "2 schedules were paused." in page
    assert "Skipped poll: it is so already" in again
    found = ScheduleState.objects.order_by("name")
    assert [(each.is_enabled, each.changed_by, each.reason) for each in found] == [
        (False, "anna", "Stock take"),
        (True, "anna", "Done"),
    ]
    assert _log() == [
        ("anna", "nightly", "Paused. Stock take"),
        ("anna", "poll", "Paused. Stock take"),
        ("anna", "poll", "Resumed. Done"),
    ]


def test_run_now_enqueues_one_run(admin: Client, states: dict[str, ScheduleState]) -> None:
    form = chosen(states["nightly"], action="run_now")

    assert "1 schedule will run now." in admin.post(SCHEDULES, form).content.decode()
    assert not TaskRecord.objects.exists()
    answer(admin, SCHEDULES, form)

    run = TaskRecord.objects.get()
    assert (run.headers or {})[SCHEDULE_HEADER] == "nightly"
    assert _log() == [("anna", "nightly", f"Run now as {run.pk}.")]


def test_past_times_run_once_they_were_shown(admin: Client, settings: Any) -> None:
    settings.TIME_ZONE = "UTC"
    url = f"{SCHEDULES}nightly/backfill/"
    span = {"start": "2026-05-01 00:00", "end": "2026-05-12 12:00"}

    shown = admin.post(url, span).content.decode()
    fields = Page(shown).fields
    other = admin.post(url, fields | {"end": "2026-05-13 12:00", "confirmed": "yes"})

    assert "12 runs will be enqueued." in shown
    assert "and 2 more" in shown
    assert "13 runs will be enqueued." in other.content.decode(), "it is shown first, too"
    assert not TaskRecord.objects.exists()

    page = admin.post(url, fields | {"confirmed": "yes"}, follow=True).content.decode()

    assert "12 runs were enqueued." in page
    assert TaskRecord.objects.count() == 12
    assert _log() == [("anna", "nightly", "Backfilled: 12 runs.")]
    assert "0 runs will be enqueued." in admin.post(url, span).content.decode()
    wrong = admin.post(url, span | {"end": "2026-04-01 12:00"}).content.decode()
    assert "is before the start" in wrong


def test_what_the_code_declares_no_more_is_shown_and_left_alone(
    admin: Client, states: dict[str, ScheduleState], settings: Any
) -> None:
    settings.LAMBDA_TASKS_SCHEDULES = {}

    page = text_of(admin, SCHEDULES)
    done = answer(admin, SCHEDULES, chosen(states["poll"], action="run_now"))

    assert page.count("gone from the code") == 2
    assert "There is no schedule &#x27;poll&#x27;" in done
    assert "Run now…" not in text_of(admin, _page_of("poll"))
    assert (TaskRecord.objects.count(), _log()) == (0, [])


def test_the_list_names_schedules_that_no_tick_has_seen(admin: Client) -> None:
    assert "No tick has seen" not in text_of(admin, SCHEDULES)

    ScheduleState.objects.filter(name="poll").delete()

    assert "No tick has seen these schedules yet: poll." in text_of(admin, SCHEDULES)


@pytest.mark.parametrize(
    ("action", "permission"),
    [
        ("pause", "switch_schedulestate"),
        ("resume", "switch_schedulestate"),
        ("run_now", "run_schedulestate"),
    ],
)
def test_each_action_on_schedules_is_a_permission_of_its_own(
    action: str, permission: str, states: dict[str, ScheduleState]
) -> None:
    others = {"switch_schedulestate", "run_schedulestate"} - {permission}
    client = user_with("view_schedulestate", *others)
    scheduling.disable_schedule("poll", by="tom")
    before = list(ScheduleState.objects.order_by("name").values())

    client.post(SCHEDULES, chosen(*states.values(), action=action, confirmed="yes"))

    assert list(ScheduleState.objects.order_by("name").values()) == before
    assert (TaskRecord.objects.count(), _log()) == (0, [])
    for name in states:
        assert f'value="{action}"' not in text_of(client, _page_of(name))


def test_schedules_are_neither_added_nor_changed_nor_deleted(admin: Client) -> None:
    for url in (f"{SCHEDULES}add/", f"{SCHEDULES}poll/delete/"):
        assert admin.get(url).status_code == 403, url
    assert admin.post(_page_of("poll"), {"name": "other"}).status_code == 403
    assert user_with().get(SCHEDULES).status_code == 403


def test_nothing_is_changed_by_a_get_or_a_forged_name(
    admin: Client, states: dict[str, ScheduleState]
) -> None:
    before = list(ScheduleState.objects.order_by("name").values())

    for action in ("pause", "run_now"):
        yes = {"action": action, "confirmed": "yes"}
        admin.get(SCHEDULES, {**yes, "_selected_action": "poll"})
        admin.post(SCHEDULES, {**yes, "_selected_action": ["no such schedule"]})
        admin.post(SCHEDULES, {**yes, "_selected_action": ["poll"], "chosen": '["../poll"]'})
        assert admin.post(
            SCHEDULES, {**yes, "_selected_action": ["poll"], "chosen": "poll"}
        ).status_code == 400  # fmt: skip

    assert list(ScheduleState.objects.order_by("name").values()) == before
    assert (TaskRecord.objects.count(), _log()) == (0, [])


def test_no_page_of_schedules_breaks_a_strict_policy(
    admin: Client, states: dict[str, ScheduleState]
) -> None:
    for page in (
        text_of(admin, SCHEDULES),
        text_of(admin, _page_of("poll")),
        admin.post(SCHEDULES, chosen(states["poll"], action="pause")).content.decode(),
    ):
        assert list(Page(page).violations()) == []
        assert "lambda_tasks/admin.css" in page


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (make_cron("*/5 9-17 * * 1-5", "UTC"), "Every fifth minute from 09:00 through 17:59"),
        (make_every(timedelta(minutes=90), None), "Every 90 minutes"),
        (make_every(timedelta(hours=1), None), "Every 1 hour"),
        (make_every(timedelta(days=2), None), "Every 2 days"),
        (make_every(timedelta(seconds=1.5), None), "Every 1.5 seconds"),
        (Once(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)), "Once, at 2030-01-0"),
    ],
    ids=str,
)
def test_a_rule_is_told_in_words(rule: Any, words: str) -> None:
    assert in_words(rule).startswith(words)
