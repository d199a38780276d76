"""`manage.py lambda_tasks dev` and `invoke`, and a newcomer's first task in every other mode.

Each in a project made by startproject, with a first task and nothing else."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from django.utils import timezone

from lambda_tasks.core.signature import Signer
from lambda_tasks.local import EventSourceMapping, LocalSqs
from lambda_tasks.local.chaos import Chaos
from lambda_tasks.local.code_watch import CodeWatch
from lambda_tasks.local.ends import Ends
from lambda_tasks.local.sqs_server import make_client
from lambda_tasks.local_run import KEYS_VARIABLE, SQS_VARIABLE, LocalRun, RunKeys
from lambda_tasks.models import TaskRecord
from lambda_tasks.queues.sqs import SQSQueue
from tests.conftest import PATIENCE_S, sqs_event, wait_for
from tests.newcomer import Newcomer
from tests.servers import LambdaProcess, Moto
from tests.servers.process import free_port, is_alive
from tests.test_batch import run_container

UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

FAIL = """
from pydantic import SecretStr

@lambda_task
def fail(*, number: int, token: SecretStr) -> None:
    raise ValueError(f"told {number} {token.get_secret_value()}"[:6])
"""

SLEEP = """
import time

@lambda_task(atomic=False)
def sleep(*, seconds: float) -> None:
    task_logger.info("it sleeps")
    time.sleep(seconds)
"""

NO_MINISTACK = "import sys\nsys.modules['ministack'] = None\n"

CALLS = """
from shop.models import Order
from shop.tasks import confirm, print_invoice

order = Order.objects.create(title="Emma")
print_invoice{using}.execute_on_commit(order_id=order.pk)
confirm{using}.execute_on_commit(order_id=order.pk)
"""
DONE = """
from lambda_tasks.models import TaskRecord

records = TaskRecord.objects.filter(task_name__startswith="shop.").order_by("task_name")
seen = [(record.task_name, record.status, record.result) for record in records]
assert seen == [
    ("shop.tasks.confirm", "SUCCESS", None),
    ("shop.tasks.print_invoice", "SUCCESS", "1 x Emma"),
], seen
"""
NUMBERED = """
import asyncio
import time
from pathlib import Path

from lambda_tasks import lambda_task
from shop.models import Order


@lambda_task
def first(*, title: str) -> None:
    Order.objects.create(title=title)
    time.sleep(0.05)


@lambda_task
async def second(*, title: str) -> None:
    await Order.objects.acreate(title=title)
    await asyncio.sleep(0.05)
"""
FORTY_CALLS = """
from shop.tasks import first, second
for number in range(20):
    first.execute_on_commit(title=f"first {number}")
    second.execute_on_commit(title=f"second {number}")
"""
NONE_LOST_OR_TWICE = """
from collections import Counter
from lambda_tasks.models import TaskRecord
from shop.models import Order
import time

for _ in range(3000):
    if TaskRecord.objects.filter(status="SUCCESS").count() == 40:
        break
    time.sleep(0.1)
titles = Counter(order.title for order in Order.objects.all())
ended = Counter((r.status, r.n_attempts, r.traceback) for r in TaskRecord.objects.all())
assert len(titles) == 40, ended
assert max(titles.values()) == 1, titles
"""


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    return Newcomer.with_first_task(tmp_path)


def called(newcomer: Newcomer, using: str = "") -> None:
    newcomer.shell(CALLS.format(using=using))


def done(newcomer: Newcomer) -> None:
    newcomer.shell(DONE)


def finished(newcomer: Newcomer, task: str, how: str = "succeeded") -> bool:
    return any(f"{task}(" in line and f") {how} after" in line for line in newcomer.lines)


def posted(newcomer: Newcomer, title: str) -> None:
    with urlopen(f"{newcomer.url}/orders/", data=urlencode({"title": title}).encode()) as answer:
        assert answer.status == 202


@pytest.mark.parametrize("without", ["", NO_MINISTACK], ids=["sqs", "table"])
def test_dev_serves_the_site_runs_its_tasks_and_follows_the_code(
    newcomer: Newcomer, without: str
) -> None:
    newcomer.write("sitecustomize.py", without)
    newcomer.write("shop/views.py", "\nplace_order.csrf_exempt = True\n", add=True)
    with newcomer.developing():
        wait_for(lambda: listening(newcomer))
        posted(newcomer, "Kindred")
        wait_for(lambda: finished(newcomer, "shop.tasks.print_invoice"))
        assert not any("code has changed" in line for line in newcomer.lines)

        broken = "\n\n@lambda_task\ndef shout(*, text: str) -> str:\n    return text.upper()\n"
        newcomer.write("shop/tasks.py", broken, add=True)
        wait_for(lambda: any("code has changed" in line for line in newcomer.lines))
        call = "shout.execute_on_commit(text='a').result()"
        newcomer.shell(f"from shop.tasks import shout; assert {call} == 'A'")
        wait_for(lambda: finished(newcomer, "shop.tasks.shout"))
    text = "".join(newcomer.lines)
    assert "Traceback" not in text
    assert ("Without it the table is the queue" in text) is bool(without)
    assert f"site      {newcomer.url}/" in text
    assert ("SQS       http://127.0.0.1:" in text) is not bool(without)
    assert f"queues    default ({'the table' if without else 'SQS'})" in text
    assert "tasks     2: shop.tasks.confirm, shop.tasks.print_invoice" in text
    assert "2 SUCCESS" in newcomer.lines[-1]


def listening(newcomer: Newcomer) -> bool:
    return any("Quit the server" in line for line in newcomer.lines)


SHOUT = """

@lambda_task(durable=False)
def shout(*, text: str) -> str:
    from pathlib import Path
    with Path("shouted").open("a") as file:
        file.write(text)
    return text
"""


def run_of_dev() -> tuple[str, RunKeys]:
    """The address and the keys that the processes of a running `dev` have."""
    psutil: Any = pytest.importorskip("psutil")
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            environment = child.environ()
            if KEYS_VARIABLE in environment:
                return environment[SQS_VARIABLE], RunKeys(**json.loads(environment[KEYS_VARIABLE]))
    raise AssertionError("no process has it")


def test_dev_runs_what_its_own_processes_send_and_nothing_else(newcomer: Newcomer) -> None:
    newcomer.write("shop/tasks.py", SHOUT, add=True)

    def body(text: str) -> str:
        call = {"task_name": "shop.tasks.shout", "kwargs": {"text": text}}
        return json.dumps(call, separators=(",", ":"))

    with newcomer.developing():
        wait_for(lambda: listening(newcomer))
        address, keys = run_of_dev()
        url = f"{address}/000000000000/default"
        fields = {"Action": "SendMessage", "QueueUrl": url, "MessageBody": body("by a form")}
        with pytest.raises(HTTPError, match="403"):
            urlopen(url, data=urlencode(fields).encode())

        client = make_client(dict(LocalRun(address, keys).aws) | {"endpoint_url": address})
        signer = Signer(keys.signing_key, SQSQueue("default", url).audience)
        another = Signer("k" * 43, SQSQueue("default", url).audience)
        for text in (
            body("unsigned"),
            another.sign(body("by another key"), now=time.time()),
            signer.sign(body("signed"), now=time.time()),
        ):
            client.send_message(QueueUrl=url, MessageBody=text)
        client.close()
        wait_for(lambda: finished(newcomer, "shop.tasks.shout"))
    assert (newcomer.directory / "shouted").read_text() == "signed"
    assert sum("signature" in line or "is signed with" in line for line in newcomer.lines) >= 2


def test_dev_is_for_laptops(newcomer: Newcomer) -> None:
    newcomer.write("mysite/settings.py", "\nDEBUG = False\n", add=True)

    assert "Set DEBUG = True" in newcomer.fail("dev")


def test_dev_tells_of_a_task_that_fails_and_of_code_that_can_not_be_loaded(
    newcomer: Newcomer,
) -> None:
    newcomer.write("shop/tasks.py", FAIL, add=True)
    good = (newcomer.directory / "shop/tasks.py").read_text()
    line = good[: good.index("raise ValueError")].count("\n") + 1
    with newcomer.developing():
        call = "tasks.fail.execute_on_commit(number=7, token='hunter22')"
        newcomer.shell(f"from shop import tasks\nprint({call}.id)")
        wait_for(lambda: finished(newcomer, "shop.tasks.fail", "failed"))
        wait_for(lambda: any("waits" not in each and "told 7" in each for each in newcomer.lines))
        newcomer.write("shop/models.py", "\nthis is no Python\n", add=True)
        wait_for(lambda: any("waits for a change" in line for line in newcomer.lines))
        models = (newcomer.directory / "shop/models.py").read_text()
        newcomer.write("shop/models.py", models.replace("this is no Python", ""))
        newcomer.write("shop/tasks.py", good)
        called(newcomer)
        wait_for(lambda: finished(newcomer, "shop.tasks.print_invoice"))
    text = "".join(newcomer.lines)
    told = rf"\[{UUID}\] shop\.tasks\.fail\(number=7, token='\*+'\) failed after [0-9.]+ s"
    assert re.search(rf"{told} at shop/tasks\.py:{line}: ValueError: told 7", text)
    assert text.count("    raise ValueError(f") == 1
    assert "hunter22" not in text


PHASES = {
    "at its start": "lambda_tasks dev",
    "when it listens": "Quit the server",
    "in mid-task": "it sleeps",
}


@pytest.mark.parametrize(
    ("phase", "signals"),
    [
        ("at its start", [signal.SIGINT]),
        ("when it listens", [signal.SIGINT]),
        ("in mid-task", [signal.SIGINT]),
        ("in mid-task", [signal.SIGINT, signal.SIGINT]),
        ("in mid-task", [signal.SIGTERM]),
    ],
)
def test_what_stops_dev_ends_all_that_it_has_started(
    newcomer: Newcomer, phase: str, signals: list[signal.Signals]
) -> None:
    psutil: Any = pytest.importorskip("psutil")
    newcomer.write("shop/tasks.py", SLEEP, add=True)

    def says(words: str) -> bool:
        return any(words in line for line in newcomer.lines)

    if phase == "in mid-task":
        newcomer.shell("from shop.tasks import sleep; sleep.execute_on_commit(seconds=600)")
    with newcomer.ending("lambda_tasks", "dev", f"127.0.0.1:{free_port()}") as process:
        wait_for(lambda: says(PHASES[phase]))
        dev = psutil.Process(process.pid)
        wait_for(lambda: phase == "at its start" or says("running, ") or len(dev.children()) >= 3)
        started = [dev, *dev.children(recursive=True)]
        for each in signals:
            time.sleep(1)
            process.send_signal(each)

    assert process.returncode == 0
    assert "All has ended." in newcomer.lines[-1]
    assert not [each for each in started if is_alive(each.pid)]
    if phase == "in mid-task":
        assert says("Finishing 1 (up to 5 s); Ctrl-C once more gives them back.")
        record = "(r.status, r.n_attempts) for r in TaskRecord.objects.all()"
        seen = newcomer.shell(f"from lambda_tasks.models import TaskRecord\nprint([{record}])")
        assert "[('QUEUED', 0)]" in seen


def test_two_side_by_side_count_what_is_their_own(newcomer: Newcomer) -> None:
    newcomer.write("shop/views.py", "\nplace_order.csrf_exempt = True\n", add=True)
    other = Newcomer(newcomer.directory)
    with newcomer.developing(), other.developing():
        wait_for(lambda: listening(newcomer) and listening(other))
        posted(other, "Kindred")
        wait_for(lambda: finished(other, "shop.tasks.print_invoice"))
    assert not finished(newcomer, "shop.tasks.print_invoice")
    assert "Runs since the start: none." in newcomer.lines[-1]
    assert "Runs since the start: 1 SUCCESS." in other.lines[-1]


def test_dev_ends_when_nobody_reads_it(newcomer: Newcomer) -> None:
    process = subprocess.Popen(
        [sys.executable, "manage.py", "lambda_tasks", "dev", f"127.0.0.1:{free_port()}"],
        cwd=newcomer.directory,
        env=newcomer.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    called(newcomer)

    assert process.wait(PATIENCE_S) == 0


@pytest.mark.django_db(transaction=True)
def test_ends_at_one_moment_are_found_each_once() -> None:
    ends, moment = Ends(lambda worker_id: worker_id == "mine"), timezone.now()

    def end(worker_ids: str) -> uuid.UUID:
        record = TaskRecord.objects.create(
            task_name="shop.tasks.f", kwargs={}, status="SUCCESS", end_time=moment,
            worker_ids=worker_ids,
        )  # fmt: skip
        return record.pk

    first = end("mine\n")
    assert [each.pk for each in ends.new()] == [first]
    second, _ = end("another\nmine\n"), end("mine\nanother\n")
    assert [each.pk for each in ends.new()] == [second]
    moment -= timedelta(seconds=5)  # of a commit that took longer
    third = end("mine\n")
    assert [each.pk for each in ends.new()] == [third]
    assert ends.new() == []
    assert ends.counts == {"SUCCESS": 3}


def test_code_has_changed_where_a_file_is_written_added_or_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("watched_by_dev", "watched_by_dev/inner", "unloaded_by_dev"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    importlib.import_module("watched_by_dev")
    code = CodeWatch()
    assert not code.has_changed()

    importlib.import_module("unloaded_by_dev")
    assert not code.has_changed(), "only loaded"

    new = tmp_path / "watched_by_dev/inner/new.py"
    changes: list[Callable[[], None]] = [new.touch, lambda: os.utime(new, (1, 1)), new.unlink]
    for change in changes:
        change()
        assert code.has_changed()
        assert not code.has_changed()


def test_chaos_loses_nothing_and_doubles_nothing(newcomer: Newcomer) -> None:
    newcomer.write("shop/tasks.py", NUMBERED)
    newcomer.write(
        "shop/views.py", "def place_order(request): ...\nplace_order_async = place_order\n"
    )
    with newcomer.developing("--chaos", "crash=15%,duplicate=30%", "--timeout", "5"):
        newcomer.shell(FORTY_CALLS)
        newcomer.shell(NONE_LOST_OR_TWICE, timeout_s=360)
    assert any("delivered once more" in line for line in newcomer.lines)


def test_a_function_that_chaos_ends_dies_in_its_invocation_with_its_processes() -> None:
    code = """
import subprocess, time
from lambda_tasks.local.chaos import Chaos, ChaoticFunction

child = subprocess.Popen(["sleep", "60"], process_group=0)
print(child.pid, flush=True)
function = ChaoticFunction(lambda event: time.sleep(60), Chaos(crash=1.0), lambda: [child.pid])
function({"Records": []})
"""
    dead = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert dead.returncode == -signal.SIGKILL
    assert "the function dies" in dead.stdout
    wait_for(lambda: not is_alive(int(dead.stdout.split()[0])))


def test_chaos_needs_the_local_sqs(newcomer: Newcomer) -> None:
    newcomer.write("sitecustomize.py", NO_MINISTACK)

    output = newcomer.fail("dev", "--chaos", "crash=5%")

    assert "pip install 'lambda-tasks[local]'" in output


@pytest.mark.parametrize("text", ["crash", "crash=5", "crash=101%", "crash=x%", "fire=5%"])
def test_a_chaos_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a fault and its percentage, like crash=5%"):
        Chaos.parse(text)


def test_a_server_that_can_not_start_ends_dev(newcomer: Newcomer) -> None:
    output = newcomer.fail("dev", "no.such.host.example:80")

    assert "The server ended with 1" in output


def test_invoke_gives_one_event_to_the_real_handler(newcomer: Newcomer) -> None:
    invoice = {"task_name": "shop.tasks.print_invoice", "kwargs": {"order_id": 1}}
    write_event(newcomer, invoice)
    newcomer.shell('from shop.models import Order\nOrder(title="Emma").save()')
    newcomer.write("refused.json", json.dumps(sqs_event("no JSON")))

    answer = json.loads(newcomer.command("invoke", "event.json"))

    assert answer["batchItemFailures"] == []
    assert newcomer.fail("invoke", "refused.json").count("itemIdentifier") == 1
    ping = newcomer.command("invoke", "-", stdin='{"lambda_tasks": "ping"}')
    assert set(json.loads(ping)) == {"lambda_tasks", "django", "python"}
    newcomer.write("event.json", "{")
    for name, words in [
        ("event.json", "event.json is not JSON"),
        ("gone.json", "gone.json can't be read: No such file"),
    ]:
        assert words in newcomer.fail("invoke", name)
    assert "This handler accepts" in newcomer.fail("invoke", "-", stdin="{}")


def test_invoke_tells_what_has_ended_and_why(newcomer: Newcomer) -> None:
    newcomer.write("shop/tasks.py", FAIL, add=True)
    newcomer.shell('from shop.models import Order\nOrder(title="Emma").save()')
    write_event(
        newcomer,
        {"task_name": "shop.tasks.print_invoice", "kwargs": {"order_id": 1}},
        {"task_name": "shop.tasks.fail", "kwargs": {"number": 7, "token": "hunter22"}},
    )

    told = newcomer.fail("invoke", "event.json")

    assert re.search(r"shop\.tasks\.print_invoice\(order_id=1\) succeeded after [0-9.]+ s", told)
    failed = r"shop\.tasks\.fail\(number=7, token='\*+'\) failed after [0-9.]+ s"
    assert re.search(rf"{failed} at shop/tasks\.py:[0-9]+: ValueError: told 7", told)
    assert told.count("Traceback (most recent call last)") == 1
    assert "hunter22" not in told


def test_invoke_gives_back_at_ctrl_c_what_runs(newcomer: Newcomer) -> None:
    newcomer.write("shop/tasks.py", SLEEP, add=True)
    write_event(newcomer, {"task_name": "shop.tasks.sleep", "kwargs": {"seconds": 600}})

    with newcomer.ending("lambda_tasks", "invoke", "event.json") as process:
        wait_for(lambda: any("it sleeps" in line for line in newcomer.lines))
        process.send_signal(signal.SIGINT)

    told = "".join(newcomer.lines)
    assert process.returncode == 130, told
    assert "What runs goes back to its queue" in told
    assert told.count("itemIdentifier") == 1
    assert "CommandError: Interrupted.\n" in newcomer.lines
    assert "Traceback" not in told
    record = "(r.status, r.n_attempts) for r in TaskRecord.objects.all()"
    seen = newcomer.shell(f"from lambda_tasks.models import TaskRecord\nprint([{record}])")
    assert "[('QUEUED', 0)]" in seen


def write_event(newcomer: Newcomer, *calls: dict[str, Any]) -> None:
    """Write event.json with messages of these calls, which the project takes from anybody."""
    any_message = "\nLAMBDA_TASKS_DIRECT_MESSAGES = 'any'\n"
    newcomer.write("mysite/settings.py", any_message, add=True)
    newcomer.write("event.json", json.dumps(sqs_event(*map(json.dumps, calls))))


@pytest.mark.parametrize("setting", ["LAMBDA_TASKS_EAGER = True", "LAMBDA_TASKS_LOCAL_WORKERS = 2"])
def test_a_mode_that_is_set_runs_the_first_task(tmp_path: Path, setting: str) -> None:
    newcomer = Newcomer.with_first_task(tmp_path, settings=setting)
    called(newcomer)
    done(newcomer)


def test_a_worker_runs_the_first_task(newcomer: Newcomer) -> None:
    called(newcomer)
    newcomer.command("worker", "--once")
    done(newcomer)


@pytest.fixture
def on_sqs(tmp_path: Path, sqs: LocalSqs, moto: Moto) -> Iterator[tuple[Newcomer, str]]:
    """As on AWS: a queue URL in the settings, and a job queue of AWS Batch."""
    name = re.sub(r"\W", "-", tmp_path.name)
    url = sqs.create_queue(name, visibility_timeout_s=60)
    queues = {
        "default": url,
        "heavy": {
            "job_queue_arn": "arn:aws:batch:us-east-1:123456789012:job-queue/heavy",
            "job_definition_arn": "arn:aws:batch:us-east-1:123456789012:job-definition/heavy:1",
        },
    }
    aws = sqs.client_options.copy()
    del aws["endpoint_url"]  # Batch has another
    newcomer = Newcomer.with_first_task(
        tmp_path, settings=f"LAMBDA_TASKS_QUEUES = {queues!r}\nLAMBDA_TASKS_AWS = {aws!r}"
    )
    newcomer.env = moto.env
    yield newcomer, url
    sqs.client.delete_queue(QueueUrl=url)


def function_of(newcomer: Newcomer) -> LambdaProcess:
    env: dict[str, Any] = newcomer.environment() | {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
    function = LambdaProcess(**env)
    function.directory = newcomer.directory
    return function


def test_lambda_and_a_worker_run_the_first_task_from_sqs(
    on_sqs: tuple[Newcomer, str], sqs: LocalSqs
) -> None:
    newcomer, url = on_sqs
    called(newcomer)
    with function_of(newcomer) as function:
        mapping = EventSourceMapping(url, function.invoke, client_options=sqs.client_options)
        with mapping:
            while mapping.poll_once(wait_s=0):
                pass
    done(newcomer)
    delete = "from lambda_tasks.models import TaskRecord\nTaskRecord.objects.all().delete()"
    newcomer.shell(delete)

    called(newcomer)
    newcomer.command("worker", "--once", "--queue", "default")
    done(newcomer)


def test_batch_runs_the_first_task(on_sqs: tuple[Newcomer, str], moto: Moto) -> None:
    newcomer, _ = on_sqs
    before = {job["jobId"] for job in moto.jobs("heavy")}
    called(newcomer, '.using(queue="heavy")')
    newcomer.command("worker", "--once", "--queue", "default")

    for job in moto.jobs("heavy"):
        if job["jobId"] not in before:
            overrides = {each["name"]: each["value"] for each in job["container"]["environment"]}
            settings = {"DJANGO_SETTINGS_MODULE": "mysite.settings"}
            env = newcomer.environment() | settings | overrides
            container = run_container(env, directory=newcomer.directory)
            output, _ = container.communicate(timeout=PATIENCE_S)
            assert container.returncode == 0, output
    done(newcomer)
