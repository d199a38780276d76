"""The tests' own, with a database and queues of its own, and the modules of Django's tests."""

from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

DATABASES = {
    alias: database | {"TEST": {**database.get("TEST", {}), "NAME": f"conformance_{alias}"}}
    for alias, database in DATABASES.items()
}
LAMBDA_TASKS_QUEUES = {name: {"database": True} for name in ("default", "queue_1", "high")}
LAMBDA_TASKS_MODULES = ["tasks"]
TASKS = {"default": {"BACKEND": "lambda_tasks.backends.LambdaTasksBackend", "QUEUES": []}}
