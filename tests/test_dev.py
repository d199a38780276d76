"""`manage.py lambda_tasks dev` and `invoke`, and a newcomer's first task in every other mode.

Each in a project made by startproject, with what the README says and nothing else."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from lambda_tasks.core.signature import Signer
from lambda_tasks.local import EventSourceMapping, LocalSqs
from lambda_tasks.local.chaos import Chaos
from lambda_tasks.local.sqs_server import make_client
from lambda_tasks.local_run import KEYS_VARIABLE, SQS_VARIABLE, LocalRun, RunKeys
from lambda_tasks.queues.sqs import SQSQueue
from tests.conftest import PATIENCE_S, sqs_event, wait_for
from tests.newcomer import Newcomer
from tests.servers import LambdaProcess, Moto
from tests.servers.process import is_alive
from tests.test_batch import run_container

NO_MINISTACK = "import sys\nsys.modules['ministack'] = None\n"

CALLS = """
from shop.models import Order
from shop.tasks import print_invoice, send_confirmation

order = Order.objects.create(title="Emma")
print_invoice{using}.execute_on_commit(order_id=order.pk)
send_confirmation{using}.execute_on_commit(order_id=order.pk)
"""
DONE = """
from lambda_tasks.models import TaskRecord

records = TaskRecord.objects.filter(task_name__startswith="shop.").order_by("task_name")
seen = [(record.task_name, record.status, record.result) for record in records]
assert seen == [
    ("shop.tasks.print_invoice", "SUCCESS", "1 x Emma"),
    ("shop.tasks.send_confirmation", "SUCCESS", None),
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


def finished(newcomer: Newcomer, task: str, status: str = "SUCCESS") -> bool:
    return any(line.startswith(status) and task in line for line in newcomer.lines)


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

        broken = "\n\n@lambda_task\ndef shout(*, text: str) -> str:\n    return text.upper()\n"
        newcomer.write("shop/tasks.py", broken, add=True)
        wait_for(lambda: any("code has changed" in line for line in newcomer.lines))
        call = "shout.execute_on_commit(text='a').result()"
        newcomer.shell(f"from shop.tasks import shout; assert {call} == 'A'")
        wait_for(lambda: finished(newcomer, "shop.tasks.shout"))
    text = "".join(newcomer.lines)
    assert "Traceback" not in text
    assert ("Without it the table is the queue" in text) is bool(without)
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
    fail = "\n\n@lambda_task\ndef fail() -> None:\n    raise ValueError('told')\n"
    newcomer.write("shop/tasks.py", fail, add=True)
    good = (newcomer.directory / "shop/tasks.py").read_text()
    with newcomer.developing():
        newcomer.shell("from shop import tasks\ntasks.fail.execute_on_commit()")
        wait_for(lambda: finished(newcomer, "shop.tasks.fail  ValueError: told", "FAILED"))
        newcomer.write("shop/models.py", "\nthis is no Python\n", add=True)
        wait_for(lambda: any("waits for a change" in line for line in newcomer.lines))
        models = (newcomer.directory / "shop/models.py").read_text()
        newcomer.write("shop/models.py", models.replace("this is no Python", ""))
        newcomer.write("shop/tasks.py", good)
        called(newcomer)
        wait_for(lambda: finished(newcomer, "shop.tasks.print_invoice"))


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
    any_message = "\nLAMBDA_TASKS_DIRECT_MESSAGES = 'any'\n"
    newcomer.write("mysite/settings.py", any_message, add=True)
    newcomer.shell('from shop.models import Order\nOrder(title="Emma").save()')
    body = {"task_name": "shop.tasks.print_invoice", "kwargs": {"order_id": 1}}
    newcomer.write("event.json", json.dumps(sqs_event(json.dumps(body), "no JSON")))

    answer = json.loads(newcomer.command("invoke", "event.json"))

    assert len(answer["batchItemFailures"]) == 1
    ping = newcomer.command("invoke", "-", stdin='{"lambda_tasks": "ping"}')
    assert set(json.loads(ping)) == {"lambda_tasks", "django", "python"}
    newcomer.write("event.json", "{")
    for name, words in [
        ("event.json", "event.json is not JSON"),
        ("gone.json", "gone.json can't be read: No such file"),
    ]:
        assert words in newcomer.fail("invoke", name)
    assert "This handler accepts" in newcomer.fail("invoke", "-", stdin="{}")


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
