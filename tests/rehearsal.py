"""The bookshop's deployment, rehearsed on a laptop: `python -m tests.rehearsal`.

Renders the template of the bookshop, creates its stack in MiniStack, and runs the demo through its
queue, as its mapping and its function say. Then the tick, as the Scheduler would send it. Prints
what a laptop can't show.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.servers.local_aws import ACCOUNT, REGION, LocalAws
from tests.stack import NOT_TRIED, PARAMETERS, Stack

EXAMPLE: Final = Path(__file__).parents[1] / "example"

PATIENCE_S: Final = 300.0


def main(orders: int = 48) -> None:
    """Run the rehearsal. Raises CalledProcessError where a part of it fails."""
    with tempfile.TemporaryDirectory() as directory, LocalAws() as aws:
        settings = settings_of(aws, Path(directory) / "shop.sqlite3")
        template = manage("lambda_tasks", "template", "sam", "--image-uri", settings=settings)
        stack = Stack.deploy(aws, template, name="bookshop", parameters=PARAMETERS)
        print(f"The stack has {len(stack.resources)} resources.")
        print(manage("demo", f"--orders={orders}", settings=settings | function_of(stack)))
        (tick,) = stack.of_type("AWS::Scheduler::Schedule").values()
        event = Path(directory) / "tick.json"
        event.write_text(tick["Target"]["Input"])
        print(manage("lambda_tasks", "invoke", str(event), settings=settings))
    print("Not tried:", *NOT_TRIED, sep="\n- ")


def settings_of(aws: LocalAws, database: Path) -> dict[str, str]:
    """The environment variables from which the bookshop's settings come."""
    return {
        "DJANGO_SETTINGS_MODULE": "bookshop.settings",
        "BOOKSHOP_DATABASE": str(database),
        "BOOKSHOP_QUEUE_URL": f"{aws.endpoint_url}/{ACCOUNT}/bookshop",
        "BOOKSHOP_AWS": json.dumps(aws.client_options),
        "BOOKSHOP_LOG_LEVEL": "ERROR",  # each task logs a line at INFO
    }


def function_of(stack: Stack) -> dict[str, str]:
    """The environment variables of the demo's function, as the stack has mapping and function."""
    functions = stack.aws.client("lambda")
    (mapping,) = functions.list_event_source_mappings(FunctionName=stack.name)[
        "EventSourceMappings"
    ]
    assert mapping["State"] == "Enabled"
    assert mapping["EventSourceArn"] == f"arn:aws:sqs:{REGION}:{ACCOUNT}:bookshop"
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    function = functions.get_function_configuration(FunctionName=stack.name)
    functions.close()
    return {
        "BOOKSHOP_BATCH_SIZE": str(mapping["BatchSize"]),
        "BOOKSHOP_FUNCTION_TIMEOUT": str(function["Timeout"]),
    }


def manage(*arguments: str, settings: Mapping[str, str]) -> str:
    """What a command of the bookshop prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "manage.py"), *arguments],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=True,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
