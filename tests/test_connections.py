"""Between two tasks: which connections are asked whether they still work."""

import select
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread, current_thread
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction

from lambda_tasks import interrupts
from lambda_tasks.execution import connections as kept
from lambda_tasks.interrupts import MAX_UNCHECKED_IDLE_S
from tests.app import outages
from tests.app.models import Effect
from tests.conftest import wait_for

pytestmark = pytest.mark.django_db(transaction=True)


class Scene:
    """This thread's connection, freshly opened, under a clock that stands still.

    `works` is what it answers when it is asked, and `asked` how often it was.
    """

    def __init__(self) -> None:
        self.works = True
        self.asked = 0
        self.now = 1_000_000.0
        self.connection = connections["default"]

    def is_usable(self) -> bool:
        self.asked += 1
        return self.works

    def meet_an_error(self) -> None:
        with pytest.raises(DatabaseError), self.connection.cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")

    def idle(self) -> None:
        self.now += MAX_UNCHECKED_IDLE_S + 1

    def hear_from_the_server(self) -> None:
        if self.connection.vendor != "postgresql":
            pytest.skip("only PostgreSQL's driver shows its socket")
        with self.connection.cursor() as cursor:
            cursor.execute("LISTEN something")
        with outages.administrator(dbname=self.connection.settings_dict["NAME"]) as server:
            server.execute("NOTIFY something")
        socket = self.connection.connection.fileno()
        wait_for(lambda: select.select([socket], [], [], 0)[0])


@pytest.fixture
def scene(monkeypatch: Any) -> Iterator[Scene]:
    scene = Scene()
    scene.connection.close()
    scene.connection.ensure_connection()
    monkeypatch.setattr(kept, "time", SimpleNamespace(time=lambda: scene.now))
    monkeypatch.setattr(scene.connection, "is_usable", scene.is_usable)
    kept.refresh()
    yield scene
    scene.connection.close()


Sign = Callable[[Scene], None]
each_sign = pytest.mark.parametrize(
    "sign", [Scene.meet_an_error, Scene.idle, Scene.hear_from_the_server]
)


@each_sign
def test_one_sign_is_enough_to_replace_a_connection_that_does_not_work(
    scene: Scene, sign: Sign
) -> None:
    scene.works = False
    sign(scene)
    old = scene.connection.connection

    kept.refresh()
    Effect.objects.create(name="written")

    assert scene.asked == 1
    assert scene.connection.connection is not old


@each_sign
def test_a_connection_that_still_works_is_kept(scene: Scene, sign: Sign) -> None:
    sign(scene)
    old = scene.connection.connection

    kept.refresh()

    assert scene.asked == 1
    assert scene.connection.connection is old


@pytest.mark.parametrize("sign", [Scene.meet_an_error, Scene.idle])
def test_a_connection_that_was_asked_is_not_asked_again_for_the_same_sign(
    scene: Scene, sign: Sign
) -> None:
    sign(scene)

    for _ in range(3):
        kept.refresh()

    assert scene.asked == 1


def test_a_connection_that_shows_no_sign_is_not_asked(scene: Scene) -> None:
    for _ in range(3):
        Effect.objects.count()
        scene.now += MAX_UNCHECKED_IDLE_S / 2
        kept.refresh()

    assert scene.asked == 0


def test_a_connection_with_an_open_transaction_is_left_alone(scene: Scene) -> None:
    scene.works = False

    with transaction.atomic():
        Effect.objects.create(name="written")
        scene.idle()
        kept.refresh()

    assert Effect.objects.count() == 1


def test_a_connection_that_its_server_has_ended_is_replaced(scene: Scene) -> None:
    if scene.connection.vendor != "postgresql":
        pytest.skip("ends a connection with pg_terminate_backend()")
    old = scene.connection.connection
    with outages.administrator() as server:
        server.execute("SELECT pg_terminate_backend(%s, 10000)", [old.info.backend_pid])
    scene.works = False

    kept.refresh()

    assert Effect.objects.count() == 0
    assert scene.connection.connection is not old


def test_a_connection_that_another_thread_just_opens_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Checked before it is ready, it could not be used."""
    monkeypatch.setattr(kept._LastDoubt, "at", 0.0)
    own: Any = connections["default"].copy()
    own.inc_thread_sharing()
    own.ensure_connection()
    own.close()
    make_ready = own.set_autocommit

    def doubt_and_make_ready(autocommit: bool) -> None:
        kept.refresh()
        make_ready(autocommit)

    monkeypatch.setattr(own, "set_autocommit", doubt_and_make_ready)
    try:
        with own.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        own.close()


def test_a_connection_whose_thread_just_ends_a_transaction_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A check there would begin another transaction, which nobody would commit."""
    monkeypatch.setattr(kept._LastDoubt, "at", 0.0)
    ends: list[tuple[bool, bool]] = []

    def write() -> None:
        own: Any = connections["default"]
        try:
            own.ensure_connection()
            commit = own._commit

            def commit_in_doubt() -> None:
                commit()
                doubt()

            own._commit = commit_in_doubt
            with transaction.atomic():
                Effect.objects.create(name="written")
            ends.append((own.autocommit, own.in_atomic_block))
        finally:
            own.close()

    with ThreadPoolExecutor(1) as other:

        def doubt() -> None:
            monkeypatch.setattr(kept._LastDoubt, "at", 0.0)
            other.submit(kept.refresh).result(60)

        thread = Thread(target=write)
        thread.start()
        thread.join(60)
        other.submit(connections.close_all).result(60)

    assert ends == [(True, False)]
    assert Effect.objects.count() == 1


def test_a_connection_of_another_thread_is_checked_by_that_thread_before_its_next_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_on: list[str] = []

    def ask(connection: object) -> bool:
        asked_on.append(current_thread().name)
        return True

    monkeypatch.setattr(interrupts, "answers", ask)
    with ThreadPoolExecutor(1, thread_name_prefix="another") as another:
        another.submit(Effect.objects.count).result(60)
        monkeypatch.setattr(kept._LastDoubt, "at", 0.0)
        kept.refresh()
        for _ in range(2):
            another.submit(Effect.objects.count).result(60)
        another.submit(connections.close_all).result(60)

    assert [each for each in asked_on if each.startswith("another")] == ["another_0"]
