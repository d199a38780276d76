"""The start of a web server, which imports what its first call needs."""

from pathlib import Path

import pytest

from tests.newcomer import Newcomer

SQS = 'LAMBDA_TASKS_QUEUES = {"default": "https://sqs.eu-west-1.amazonaws.com/123456789012/q"}'
TABLE = 'LAMBDA_TASKS_QUEUES = {"default": {"database": True}}'
BROKEN = 'LAMBDA_TASKS_QUEUES = {"default": 3}'
LOADED = (
    "import sys, threading; print('aiobotocore.session' in sys.modules, threading.active_count())"
)


@pytest.mark.parametrize("server", ["wsgi", "asgi"])
def test_a_web_server_of_a_project_with_sqs_is_prepared_and_may_fork(
    tmp_path: Path, server: str
) -> None:
    newcomer = Newcomer.with_first_task(tmp_path, settings=SQS)

    assert newcomer.run("-c", f"import mysite.{server}; {LOADED}") == "True 1\n"


READS_NOTHING = """
import asyncio, mysite.wsgi
from botocore.loaders import JSONFileLoader
from lambda_tasks.queues.aws.client import AwsClient
from lambda_tasks.queues.aws.errors import RequestFailed

def note(self, path, original=JSONFileLoader.load_file):
    found = original(self, path)
    if found is not None:
        print(path)
    return found

async def call():
    options = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "eu-west-1"}
    client = AwsClient("sqs", options | {"endpoint_url": "http://127.0.0.1:9"})
    try:
        await client.call("send_message_batch", QueueUrl="http://127.0.0.1:9/0/q", Entries=[])
    except RequestFailed:
        print("called")
    await client.aclose()

JSONFileLoader.load_file = note
asyncio.run(call())
"""


def test_the_first_call_of_a_web_server_reads_no_descriptions_of_aws(tmp_path: Path) -> None:
    newcomer = Newcomer.with_first_task(tmp_path, settings=SQS)

    assert newcomer.run("-c", READS_NOTHING) == "called\n"


@pytest.mark.parametrize("settings", [TABLE, BROKEN])
def test_a_web_server_of_another_project_loads_nothing_of_aws(
    tmp_path: Path, settings: str
) -> None:
    newcomer = Newcomer.with_first_task(tmp_path, settings=settings)

    assert newcomer.run("-c", f"import mysite.wsgi; {LOADED}") == "False 1\n"


def test_a_command_loads_nothing_of_aws(tmp_path: Path) -> None:
    newcomer = Newcomer.with_first_task(tmp_path, settings=SQS)

    assert newcomer.shell(LOADED).endswith("False 1\n")
