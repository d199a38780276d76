"""The tests' own, with a database and queues of its own, and the modules of Django's tests."""

import json
import os
from typing import Any

from tests.conformance.ways import QUEUES_VARIABLE
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES, INSTALLED_APPS, sqlite


def _of_its_own(database: dict[str, Any], name: str) -> dict[str, Any]:
    """The tests' database under the name by which the other process finds it."""
    if database["ENGINE"].endswith("sqlite3"):
        return sqlite(name)
    return database | {"NAME": name, "TEST": {**database.get("TEST", {}), "NAME": name}}


DATABASES = {alias: _of_its_own(each, f"conformance_{alias}") for alias, each in DATABASES.items()}
INSTALLED_APPS = ["tests.conformance", *INSTALLED_APPS]
LAMBDA_TASKS_QUEUES = json.loads(os.environ[QUEUES_VARIABLE])
LAMBDA_TASKS_MODULES = ["tasks.tasks"]
TASKS = {
    alias: {"BACKEND": "lambda_tasks.backends.LambdaTasksBackend", "QUEUES": []}
    for alias in ("default", "immediate")
}
