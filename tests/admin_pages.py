"""What the tests of the admin's pages share: users, records, and a look at HTML."""

from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils.timezone import now

from lambda_tasks.models import TaskRecord
from lambda_tasks.records import rollups

LIST = "/admin/lambda_tasks/taskrecord/"
OVERVIEW = f"{LIST}overview/"
SCHEDULES = "/admin/lambda_tasks/schedulestate/"


def record(**fields: Any) -> TaskRecord:
    at = now()
    return TaskRecord.objects.create(
        **{
            "task_name": "tests.app.tasks.add",
            "kwargs": {"a": 1},
            "status": "SUCCESS",
            "result": 3,
            "enqueued_at": at,
            "start_time": at - timedelta(seconds=2),
            "end_time": at - timedelta(seconds=0.5),
            **fields,
        }
    )


def unfinished(status: str = "QUEUED", **fields: Any) -> TaskRecord:
    waits = {"result": None, "end_time": None, "start_time": None, "look_at": now()}
    return record(**{"status": status, **waits, **fields})


def note_a_tick() -> None:
    """Leave what the first tick leaves, from which the overview reads."""
    rollups.roll_up(timedelta(days=30))


def page_of(record: TaskRecord) -> str:
    return f"{LIST}{record.pk}/change/"


def superuser() -> Client:
    return _logged_in(User.objects.create_superuser("anna"))


def user_with(*permissions: str) -> Client:
    user = User.objects.create_user("reader", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return _logged_in(user)


def _logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def text_of(client: Client, url: str, **query: str) -> str:
    response = client.get(url, query)
    assert response.status_code == 200, response.status_code
    return response.content.decode()


def chosen(*objects: Any, **fields: str) -> dict[str, Any]:
    """The form of an action on objects; the first field is the action's name."""
    return {"_selected_action": [str(each.pk) for each in objects], **fields}


class Page(HTMLParser):
    """The elements of a page, for what must not be in it, and the fields of its last form."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.fields: dict[str, str] = {}
        self._is_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        self._is_script = tag == "script"
        if tag == "form":
            self.fields = {}
        if tag == "input" and found.get("name") and found.get("type") != "submit":
            self.fields[str(found["name"])] = found.get("value") or ""

    def handle_data(self, data: str) -> None:
        if self._is_script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False

    def violations(self) -> Iterator[str]:
        """What a policy forbids that allows scripts, styles and pictures of this site only."""
        yield from self.inline
        for tag, attributes in self.elements:
            source = attributes.get("src") or (attributes.get("href") if tag == "link" else None)
            if (
                tag in ("style", "iframe", "object")
                or "//" in (source or "")
                or "data:" in str(source)
            ):
                yield f"<{tag} {source}>"
            for name, value in attributes.items():
                if name == "style" or name.startswith("on") or "javascript:" in (value or ""):
                    yield f"<{tag} {name}={value}>"


def answer(client: Client, url: str, form: dict[str, Any], **more: str) -> str:
    """Send an action's form, confirm what its page asks, and return the page after it."""
    asked = client.post(url, form)
    assert asked.status_code == 200, asked.status_code
    fields = Page(asked.content.decode()).fields
    assert fields.get("confirmed") == "yes", fields
    return client.post(url, fields | more, follow=True).content.decode()
