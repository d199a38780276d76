"""The helpers for a project's tests, as a project uses them: pytest, TestCase, sync and async."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import TestCase, TransactionTestCase
from django.utils import timezone
from pydantic import SecretStr

from lambda_tasks import TaskFailed, handler, testing
from lambda_tasks.local import LambdaContext
from lambda_tasks.models import SQSLambdaTask, TaskRecord
from lambda_tasks.testing import (
    CapturedTasks,
    CaptureTasksMixin,
    aassert_idempotent,
    arun_enqueued,
    assert_enqueued,
    assert_idempotent,
    capture_tasks,
    lambda_event,
    run_enqueued,
    simulate,
)
from tests.app import django_tasks, secretive, tasks
from tests.app.models import Effect, Seat
from tests.newcomer import Newcomer

own: Any = tasks
django: Any = django_tasks


def names() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


class Helpers:
    def test_what_is_enqueued_stays_and_can_be_run(self, captured_tasks: CapturedTasks) -> None:
        own.leave_effect.execute_on_commit(name="own")
        django.leave_effect.enqueue("django")
        async_to_sync(own.aleave_effect.aexecute_on_commit)(name="async")

        assert [call.task_name.rpartition(".")[2] for call in captured_tasks] == [
            "leave_effect", "leave_effect", "aleave_effect",
        ]  # fmt: skip
        assert names() == []
        records = run_enqueued()
        assert names() == ["async", "django", "own"]
        assert [record.status for record in records] == ["SUCCESS"] * 3
        assert run_enqueued() == [], "each runs once"

    def test_a_call_tells_its_arguments_queue_and_times(
        self, captured_tasks: CapturedTasks
    ) -> None:
        task = own.add.using(queue="other", delay=5)
        invocation = task.execute_on_commit(a=1)
        django.add.using(queue_name="other").enqueue(1, b=3)

        first, second = captured_tasks
        assert (first.id, first.kwargs, first.queue, first.delay) == (
            invocation.id, {"a": 1}, "other", 5,
        )  # fmt: skip
        assert (second.args, second.kwargs, second.run_after) == ([1], {"b": 3}, None)
        assert repr(second) == "<CapturedTask tests.app.django_tasks.add(1, b=3)>"

    def test_a_rolled_back_call_is_gone(self, captured_tasks: CapturedTasks) -> None:
        own.add.execute_on_commit(a=1)
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            own.add.execute_on_commit(a=2)
            1 / 0  # noqa: B018

        assert [call.kwargs for call in captured_tasks] == [{"a": 1}]

    def test_delays_do_not_wait_and_retries_run(self, captured_tasks: CapturedTasks) -> None:
        later = own.add.using(run_after=timedelta(days=3)).execute_on_commit(a=1)
        direct = own.add_direct.using(run_after=timedelta(days=3)).execute_on_commit(a=2)
        retried = django.afail_until.enqueue(3)

        records = run_enqueued()

        assert [later.result(timeout=0), direct.result(timeout=0)] == [3, 4]
        retried.refresh()
        assert (retried.return_value, retried.attempts) == (3, 3)
        assert len(records) == 5

    def test_a_failure_is_raised_unless_it_is_asked_for(
        self, captured_tasks: CapturedTasks
    ) -> None:
        django.leave_effect_and_fail.enqueue("effect")
        with pytest.raises(TaskFailed, match="RuntimeError: no effect"):
            run_enqueued()

        result = django.leave_effect_and_fail.enqueue("effect")
        (record,) = run_enqueued(raise_failures=False)
        result.refresh()
        assert (record.status, result.status) == ("FAILED", "FAILED")
        assert names() == []

    @pytest.mark.parametrize("name", ["leave_effect", "aleave_effect"])
    @pytest.mark.parametrize("interface", [own, django])
    def test_a_crash_and_a_duplicate_leave_one_effect(
        self, captured_tasks: CapturedTasks, name: str, interface: Any
    ) -> None:
        for fault in ("crash", "duplicate"):
            enqueue(getattr(interface, name), name=fault)
            with simulate(fault):
                run_enqueued()

        assert names() == ["crash", "duplicate"]
        crashed = TaskRecord.objects.get(kwargs__name="crash")
        assert (crashed.status, crashed.n_attempts) == ("SUCCESS", 2)

    @pytest.mark.parametrize("name", ["leave_effect", "aleave_effect"])
    def test_a_timeout_is_a_failure_without_effect(
        self, captured_tasks: CapturedTasks, name: str
    ) -> None:
        result = getattr(django, name).enqueue("effect")
        with simulate("timeout"):
            run_enqueued(raise_failures=False)

        result.refresh()
        assert result.errors[0].exception_class.__name__ == "HardTimeLimitExceeded"
        assert names() == []

    def test_what_comes_back_for_ever_is_an_error(self, captured_tasks: CapturedTasks) -> None:
        own.add.execute_on_commit(a=1)
        held_until = timezone.now() + timedelta(days=1)
        TaskRecord.objects.update(status="RUNNING", lease_until=held_until)

        with pytest.raises(AssertionError, match=r"came back to its queue 10 times"):
            run_enqueued()

    def test_what_no_release_can_run_is_a_failure(self, captured_tasks: CapturedTasks) -> None:
        payload: dict[str, Any] = own.add.serialize(a=1)
        payload["message"]["task_name"] = "tests.app.tasks.gone"
        SQSLambdaTask.model_validate(payload).execute_on_commit()

        with pytest.raises(TaskFailed, match=r"tests\.app\.tasks\.gone"):
            run_enqueued()

    def test_eager_mode_is_off_meanwhile(self, settings: Any) -> None:
        settings.LAMBDA_TASKS_EAGER = True
        with capture_tasks() as captured:
            own.leave_effect.execute_on_commit(name="effect")
            assert names() == []
            captured.run()
        assert names() == ["effect"]

    def test_what_runs_after_the_capture_is_captured_too(self, captured_tasks: Any) -> None:
        with capture_tasks() as captured:
            own.enqueue_another.execute_on_commit(name="x")

        records = captured.run()

        assert [record.status for record in records] == ["SUCCESS"] * 2
        assert len(captured_tasks) == 0, "nothing has left it"

    def test_many_calls_are_no_endless_chain_and_one_is(
        self, captured_tasks: CapturedTasks, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr("lambda_tasks.testing.capturing.MAX_ROUNDS", 3)
        django.aadd.enqueue_many((number,) for number in range(10))
        assert len(run_enqueued()) == 10

        own.call_itself.execute_on_commit()
        with pytest.raises(AssertionError, match="After 3 rounds tasks still enqueue others"):
            run_enqueued()

    def test_it_does_not_matter_how_an_argument_was_passed(
        self, captured_tasks: CapturedTasks
    ) -> None:
        django.add.enqueue(1, b=3)
        django.return_words.enqueue((1, 2))
        secretive.pay_direct.execute_on_commit(token=SecretStr("sk-1"))

        assert assert_enqueued(django.add, a=1, b=3).args == [1]
        assert assert_enqueued(django.add, 1, 3).args == [1]
        assert assert_enqueued(django.return_words, (1, 2))
        assert assert_enqueued(secretive.pay_direct, token="sk-1")
        with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
            assert_enqueued(django.add, c=1)

    def test_signed_messages_run(self, captured_tasks: CapturedTasks, settings: Any) -> None:
        settings.LAMBDA_TASKS_SIGNING_KEYS = ["k" * 32]
        invocation = own.add.execute_on_commit(a=1)
        run_enqueued()
        assert invocation.result(timeout=0) == 3

    def test_it_is_a_sequence(self, captured_tasks: CapturedTasks) -> None:
        own.add.execute_on_commit(a=1)
        (call,) = captured_tasks
        assert captured_tasks[0:1] == [call]
        assert captured_tasks == [call]

    def test_an_assertion_shows_what_came_near(self, captured_tasks: CapturedTasks) -> None:
        with pytest.raises(AssertionError, match=r"add\(a=1\) was not enqueued. Nothing was."):
            assert_enqueued(own.add, a=1)
        own.add.execute_on_commit(a=1)
        django.aadd.enqueue(1, b=5)

        assert assert_enqueued(own.add, a=1).kwargs == {"a": 1}
        assert assert_enqueued(own.add).kwargs == {"a": 1}
        assert assert_enqueued(django.aadd, 1, b=5).args == [1]
        for task, args, kwargs, shown in [
            (own.add, (), {"a": 2}, "add(a=1)>, which differs in a"),
            (own.add, (), {"a": 1, "b": 2}, "add(a=1)>, which differs in b"),
            (django.aadd, (2,), {}, "aadd(1, b=5)>, which differs in a"),
            (own.aadd, (), {}, "There are no calls of this task, but of tests.app.tasks.add"),
        ]:
            with pytest.raises(AssertionError) as caught:
                assert_enqueued(task, *args, **kwargs)
            assert shown in str(caught.value)

    def test_an_assertion_about_no_task_or_no_parameter_is_a_type_error(
        self, captured_tasks: CapturedTasks
    ) -> None:
        with pytest.raises(TypeError, match=r"has no parameter 'c'\. It has: 'a', 'b'"):
            assert_enqueued(own.add, c=1)
        with pytest.raises(TypeError, match="is no task"):
            assert_enqueued(len)

    def test_idempotence(self) -> None:
        assert_idempotent(own.add, a=1)
        assert_idempotent(django.add, 1)
        with pytest.raises(AssertionError, match=r"another app\.Effect"):
            assert_idempotent(django.leave_effect, "effect")
        async_to_sync(aassert_idempotent)(own.aadd, a=1)

    def test_idempotence_of_rows_with_composite_keys(self) -> None:
        Seat.objects.create(row=1, number=2, taken_by="x")
        assert_idempotent(own.add, a=1)
        with pytest.raises(AssertionError, match=r"in app\.Seat \(1, 2\) another taken_by"):
            assert_idempotent(own.take_seat, row=1, number=2)

    def test_a_keyboard_interrupt_goes_through(self, captured_tasks: CapturedTasks) -> None:
        for task in (django.interrupt, django.ainterrupt):
            task.enqueue()
            with pytest.raises(KeyboardInterrupt):
                run_enqueued()


@pytest.mark.django_db
class TestInATransaction(Helpers):
    """The transaction is the test's, which never commits."""


@pytest.mark.django_db(transaction=True)
class TestWithCommits(Helpers):
    """As a test with a live server has them."""


def enqueue(task: Any, **kwargs: Any) -> None:
    call = getattr(task, "execute_on_commit", None) or task.enqueue
    call(**kwargs)


class WithTestCase(CaptureTasksMixin, TestCase):
    def test_a_call_is_captured_and_run_in_the_tests_transaction(self) -> None:
        own.leave_effect.execute_on_commit(name="own")
        django.leave_effect.enqueue("django")

        self.assertEnqueued(own.leave_effect, name="own")
        assert len(self.tasks) == 2
        self.tasks.run()
        assert names() == ["django", "own"]

    def test_its_own_way_of_commits_agrees(self) -> None:
        with self.captureOnCommitCallbacks(execute=True):
            own.leave_effect.execute_on_commit(name="own")

        assert len(self.tasks) == 1
        run_enqueued()
        assert names() == ["own"]

    async def test_an_async_test(self) -> None:
        await own.aleave_effect.aexecute_on_commit(name="own")
        await django.leave_effect.aenqueue("django")

        assert len(self.tasks) == 2
        self.assertEnqueued(django.leave_effect, "django")
        await arun_enqueued()
        assert await Effect.objects.acount() == 2


class WithTransactionTestCase(CaptureTasksMixin, TransactionTestCase):
    def test_a_call_is_captured_and_run(self) -> None:
        with transaction.atomic():
            own.leave_effect.execute_on_commit(name="own")
        run_enqueued()
        assert names() == ["own"]

    async def test_an_async_test(self) -> None:
        await own.aleave_effect.aexecute_on_commit(name="own")
        await arun_enqueued()
        assert await Effect.objects.acount() == 1


def test_without_capture_the_helpers_say_what_they_need() -> None:
    for call in (run_enqueued, lambda: assert_enqueued(own.add)):
        with pytest.raises(RuntimeError, match="Nothing is captured here"):
            call()


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="'crash', 'duplicate', 'timeout'"):
        simulate("earthquake").__enter__()  # type: ignore[arg-type]


@pytest.fixture
def _handler() -> Iterator[None]:
    yield
    handler.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_handler")
def test_an_event_is_what_the_handler_takes() -> None:
    with capture_tasks() as captured:
        django.leave_effect.enqueue("captured")
    payload = own.leave_effect.serialize(name="serialized")
    body = json.dumps(payload["message"] | {"invocation_id": "7" * 32, "kwargs": {"name": "body"}})

    event = lambda_event([captured[0], payload, body])

    assert handler.handler(event, LambdaContext()) == {"batchItemFailures": []}
    assert names() == ["body", "captured", "serialized"]


def test_every_public_name_is_there() -> None:
    assert [name for name in testing.__all__ if not hasattr(testing, name)] == []


A_WORKER_IN_A_TEST = """
from django.core.management import call_command
from django.test import TransactionTestCase
from shop.models import Order
from shop.tasks import print_invoice

class WorkerTests(TransactionTestCase):
    def test_a_worker_runs_a_sync_task(self):
        order = Order.objects.create(title="Solaris")
        invocation = print_invoice.execute_on_commit(order_id=order.pk)
        call_command("lambda_tasks", "worker", "--once")
        self.assertEqual(invocation.result(), "1 x Solaris")
"""


def test_a_worker_in_a_test_runs_sync_tasks_on_the_tests_database(tmp_path: Path) -> None:
    shop = Newcomer.with_first_task(
        tmp_path,
        settings='LAMBDA_TASKS_QUEUES = {"default": {"database": True}}\n'
        'DATABASES["default"]["TEST"] = {"NAME": BASE_DIR / "test.sqlite3"}',
    )
    shop.write("shop/tests.py", A_WORKER_IN_A_TEST)

    shop.run("manage.py", "test")
