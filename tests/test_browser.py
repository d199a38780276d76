"""The dashboard in a real Chromium: look, filter, open, retry, replay, redrive, pause."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import django
import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils.timezone import now

from lambda_tasks import operations
from lambda_tasks.core.message import CALL_HEADER
from lambda_tasks.local import LocalSqs
from lambda_tasks.models import StepCheckpoint, TaskError, TaskRecord, Workflow
from lambda_tasks.queues import dead_letters
from lambda_tasks.records import reports
from tests.admin_pages import LIST, OVERVIEW, note_a_tick, record
from tests.conftest import starting, wait_for
from tests.servers.chromium import browser, serving_site

pytestmark = pytest.mark.django_db(transaction=True)

QUEUES = "/admin/lambda_tasks/queuestate/"
ADD = "tests.app.tasks.add"


TRACEBACK = """Traceback (most recent call last):
  File "/x/site-packages/y.py", line 1, in y
    y()
app.errors.Wrong: no room
"""


class Reader:
    """A superuser before the browser."""

    def __init__(self, chrome: Any, site: str) -> None:
        self.chrome = chrome
        self._site = site

    def sign_in(self) -> None:
        client = Client()
        client.force_login(User.objects.create_superuser("anna"))
        self.chrome.get(f"{self._site}/admin/login/")
        self.chrome.add_cookie({"name": "sessionid", "value": client.cookies["sessionid"].value})

    def open(self, url: str) -> None:
        self.chrome.get(self._site + url)

    def find(self, selector: str) -> Any:
        return self.chrome.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        found: list[Any] = self.chrome.find_elements("css selector", selector)
        return found

    def click(self, selector: str) -> None:
        """Click, and wait for the page that follows."""
        before = self.find("html")
        self.find(selector).click()
        self._wait_for_another_page_than(before)

    def follow(self, text: str) -> None:
        before = self.find("html")
        self.chrome.find_element("partial link text", text).click()
        self._wait_for_another_page_than(before)

    def write(self, selector: str, text: str) -> None:
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    @property
    def text(self) -> str:
        return str(self.find("body").text)

    def set_width(self, width: int) -> None:
        sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)

    def complaints(self) -> list[str]:
        """What the browser has complained of: violations of the policy, errors of scripts."""
        return [
            each["message"]
            for each in self.chrome.get_log("browser")
            if "favicon" not in each["message"]
        ]

    def _wait_for_another_page_than(self, before: Any) -> None:
        from selenium.common.exceptions import WebDriverException

        def is_gone() -> bool:
            try:
                before.is_enabled()
            except WebDriverException:
                return True
            return False

        wait_for(is_gone)
        wait_for(lambda: self.chrome.execute_script("return document.readyState") == "complete")


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with starting("chromium"), browser() as chrome:
        yield chrome


@pytest.fixture
def reader(chrome: Any, settings: Any) -> Iterator[Reader]:
    settings.STATIC_URL = "/static/"
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, _policy(settings)]
    with serving_site() as site:
        found = Reader(chrome, site)
        found.set_width(1440)
        found.sign_in()
        note_a_tick()
        found.complaints()
        yield found
        assert found.complaints() == []
        chrome.get("about:blank")  # so that nothing asks for more


def _policy(settings: Any) -> str:
    """The middleware that sends the strict policy: Django's own, where there is one."""
    if django.VERSION < (6, 0):
        return "tests.servers.chromium.under_policy"
    kinds = ("script-src", "style-src", "img-src", "connect-src", "font-src", "form-action")
    settings.SECURE_CSP = {"default-src": ["'none'"], **{kind: ["'self'"] for kind in kinds}}
    return "django.middleware.csp.ContentSecurityPolicyMiddleware"


def _broken(n: int) -> tuple[TaskError, list[TaskRecord]]:
    at = now()
    error = TaskError.objects.create(
        id="11111111-2222-4333-8444-555555555555", exception_class="app.errors.Wrong",
        message="no room", raised_in="app/tasks.py in add", task_name=ADD, first_seen=at,
        last_seen=at,
    )  # fmt: skip
    records = [
        record(
            status="FAILED", result=None, queue="table", kwargs={"a": number}, error_id=error.pk,
            exception_class="app.errors.Wrong", broken_since=at, end_time=at,
            traceback=TRACEBACK,
        )
        for number in range(n)
    ]  # fmt: skip
    return error, records


def _n_queued() -> int:
    return TaskRecord.objects.filter(status="QUEUED").count()


def test_one_looks_filters_and_opens_a_run(reader: Reader) -> None:
    _broken(3)
    record(task_name="tests.app.tasks.leave_effect")
    reader.open("/admin/lambda_tasks/")
    reader.follow("Overview")
    assert "3 calls are still broken" in reader.text

    reader.follow("3 calls are still broken")
    assert len(reader.all("#result_list tbody tr")) == 3
    reader.click("#result_list tbody th a")

    assert "Its life" in reader.text
    reader.find(".lt-traceback summary").click()
    assert reader.find(".lt-traceback details pre").is_displayed()


def test_five_are_retried_and_then_the_rest(reader: Reader) -> None:
    _broken(8)
    reader.open(OVERVIEW)
    reader.follow("Wrong")
    reader.click("button[value=retry]")
    assert "8 tasks will start over." in reader.text

    reader.click("button[name=first]")
    assert _n_queued() == 5
    TaskRecord.objects.filter(status="QUEUED").update(status="SUCCESS")
    reader.chrome.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(lambda: reader.text.count("SUCCESS") == 5)

    reader.click("button[value=retry]")
    assert "3 tasks will start over." in reader.text
    reader.click("input[type=submit][value=Retry]")
    assert _n_queued() == 3


def test_a_run_is_replayed_with_other_arguments(reader: Reader) -> None:
    _, (failed,) = _broken(1)
    reader.open(f"{LIST}{failed.pk}/change/")
    reader.follow("Replay with other arguments")
    reader.write("[name=argument-b]", "")
    reader.write("[name=argument-a]", "")
    reader.click(".lt-form input[type=submit]")
    assert "This argument is required." in reader.text

    reader.write("[name=argument-a]", "41")
    reader.click(".lt-form input[type=submit]")

    replay = TaskRecord.objects.exclude(pk=failed.pk).get()
    assert replay.kwargs["a"] == 41
    assert "It was replayed." in reader.text


def test_dead_letters_are_looked_at_and_sent_back(
    reader: Reader, sqs: LocalSqs, settings: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(dead_letters, "POLL_S", 0)
    queue = sqs.create_queue(f"test-{uuid.uuid4().hex}", max_receive_count=5)
    settings.LAMBDA_TASKS_QUEUES = settings.LAMBDA_TASKS_QUEUES | {"default": queue}
    done = record(queue="default", status="QUEUED", result=None, end_time=None, look_at=now())
    dead = operations.count_dead_letters("default")[0].url
    message = f'{{"task_name": "{ADD}", "invocation_id": "{done.pk}", "durable": true}}'
    sqs.client.send_message(QueueUrl=dead, MessageBody=message)
    reader.open(f"{QUEUES}default/change/")

    reader.follow("Look at its dead letters")
    assert "1 dead letter" in reader.text
    for width in (390, 1440):
        reader.set_width(width)
        assert _wrong_with(reader, width) is None
    reader.find(".lt-letters td input, .lt-letters th input").click()
    reader.click("button[value=redrive]")
    assert "1 message will go back to its queue." in reader.text
    reader.click("input[type=submit]")

    assert "1 message went back." in reader.text
    assert sqs.counts(queue)["visible"] == 1


def test_a_queue_is_paused_and_resumed(reader: Reader) -> None:
    reader.open(QUEUES)
    reader.follow("table")
    reader.click("button[value=pause]")
    reader.write("#lt-reason", "the shop moves")
    reader.click("input[type=submit]")

    assert operations.queue_states()["table"].reason == "the shop moves"
    assert "paused" in reader.text
    reader.follow("table")
    assert "Paused by anna" in reader.text
    reader.click("button[value=resume]")
    reader.click("input[type=submit]")
    assert not operations.queue_states()["table"].is_paused


def test_several_queues_are_paused_by_their_boxes(reader: Reader) -> None:
    reader.open(QUEUES)
    for name in ("table", "other"):
        reader.find(f"input[value={name}]").click()
    # What is chosen stays, though others change what the page shows.
    operations.pause_queue("fifo", by="ben")
    reader.chrome.execute_script("document.activeElement.blur()")
    reader.chrome.execute_script("document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(lambda: reader.find(".lt-newer").is_displayed())
    reader.click("button[value=pause]")
    assert "2 queues will be paused." in reader.text
    reader.write("#lt-reason", "the shop moves")
    reader.click("input[type=submit]")

    assert "2 queues were paused." in reader.text
    assert operations.queue_states()["other"].reason == "the shop moves"
    assert reader.complaints() == []


def test_newer_data_replaces_nothing_that_is_in_use(reader: Reader) -> None:
    reader.open(OVERVIEW)
    ask = "document.dispatchEvent(new Event('visibilitychange'))"
    reader.chrome.execute_script("document.querySelector('.lt-facts a').focus()")
    _broken(2)
    reader.chrome.execute_script(ask)
    wait_for(lambda: reader.find(".lt-newer").is_displayed())
    assert "2 calls are still broken" not in reader.text

    reader.chrome.execute_script("document.activeElement.blur()")
    reader.chrome.execute_script(ask)

    wait_for(lambda: "2 calls are still broken" in reader.text)
    assert not reader.find(".lt-newer").is_displayed()


def _pages() -> list[str]:
    _, (failed, *_others) = _broken(3)
    reports.keep(
        findings=[
            {
                "id": f"queue.{severity}", "severity": severity, "is_checked": is_checked,
                "where": "queue table", "found": "It is wrong.", "expected": "Right.",
                "why": "It matters.", "fix": "aws " + "x" * 200, "template": "",
            }
            for severity in ("error", "warning", "info") for is_checked in (True, False)
        ],
        n_findings=6, ignored=[],
        queues={"table": [{"name": "q", "n_attributes": 2, "differences": [
            {"attribute": "Policy", "live": None, "wanted": {"Statement": ["y" * 200]}}
        ]}]},
    )  # fmt: skip
    record(
        status="RUNNING", result=None, end_time=None, start_time=now() - timedelta(seconds=3),
        lease_until=now() + timedelta(minutes=1), look_at=now(),
    )  # fmt: skip
    function = _function()
    flow = Workflow.objects.create(
        name="order", n_steps=1, call_id=function, created_at=now(), results=[]
    )
    record(workflow_id=flow.pk, step=0, status="FAILED", links={})
    return [
        f"{LIST}{function}/change/", f"/admin/lambda_tasks/workflow/{flow.pk}/change/",
        OVERVIEW, LIST, f"{LIST}{failed.pk}/change/", f"{LIST}{failed.pk}/replay/", QUEUES,
        f"{LIST}errors/{failed.error_id}/", f"{QUEUES}table/change/", f"{LIST}tasks/",
        f"{LIST}tasks/{ADD}/", "/admin/lambda_tasks/",
    ]  # fmt: skip


def _function() -> uuid.UUID:
    """A durable function that has failed behind its last step."""
    id, hour = uuid.uuid4(), timedelta(hours=1)
    record(id=id, root_id=id, status="FAILED", result=None, headers={CALL_HEADER: str(id)})
    for number, (name, kind, value) in enumerate((
        ("charge", "step", "receipt"), ("refund", "on_failure", {"receipt": "x" * 300}),
        ("a day", "sleep", now().isoformat()), ("approval", "wait_for", True),
    ), 1):  # fmt: skip
        StepCheckpoint.objects.create(
            call_id=id,
            name=name,
            kind=kind,
            number=number,
            value=value,
            began_at=now() - hour,
            ended_at=None if kind == "on_failure" else now(),
        )
    return id


def test_a_function_goes_on_from_a_step(reader: Reader) -> None:
    function = _function()
    reader.open(f"{LIST}{function}/change/")

    reader.click("button[name=step][value='3']")
    assert "2 steps will be forgotten" in reader.text
    reader.click("input[type=submit]")

    assert "The function runs again. 2 steps were forgotten." in reader.text
    assert TaskRecord.objects.get(pk=function).status == "QUEUED"
    assert not reader.all("button[name=step]")


@pytest.mark.parametrize("width", [390, 1440])
def test_no_page_is_wider_than_its_window_or_has_an_error_of_accessibility(
    reader: Reader, width: int
) -> None:
    reader.set_width(width)
    found: dict[str, Any] = {}
    for url in _pages():
        reader.open(url)
        if wrong := _wrong_with(reader, width):
            found[url] = wrong

    assert found == {}


def _wrong_with(reader: Reader, width: int) -> Any:
    """The page's width and its errors of accessibility; None where there is nothing wrong."""
    from axe_core_python.selenium import Axe

    shown = reader.chrome.execute_script("return document.documentElement.scrollWidth")
    errors = Axe().run(reader.chrome, OURS)["violations"]
    told = [(each["id"], [n["html"][:120] for n in each["nodes"][:3]]) for each in errors]
    return (shown, told) if shown > width or told else None


OURS: dict[str, Any] = {
    "include": [["#content"]],
    "exclude": [
        ["#changelist-filter"],
        ["#toolbar"],
        [".actions"],
        ["#result_list .action-checkbox"],
    ],
}
"""The pages' contents, without what Django's own lists have in them."""
