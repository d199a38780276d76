"""The doctor finds each fault of AWS Batch (moto's), and nothing where there is none."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from lambda_tasks import operations, runtime
from lambda_tasks.core.aws_values import JOB_MARGIN_S
from lambda_tasks.doctor import examination
from lambda_tasks.operations import Finding
from tests.app import tasks
from tests.servers import Moto
from tests.servers.moto import CREDENTIALS, REGION

pytestmark = pytest.mark.django_db(transaction=True)

LONGEST_S = 600


class Jobs:
    """A job queue with its compute environment, and the definition that the settings name."""

    def __init__(self, moto: Moto, settings: Any) -> None:
        self.batch = moto.batch
        self.name = f"jobs-{uuid.uuid4().hex[:8]}"
        moto.create_job_queue(self.name)
        self.queue_arn = self._describe()["jobQueueArn"]
        self._settings = settings
        settings.LAMBDA_TASKS_AWS = {
            "endpoint_url": moto.endpoint_url, "region_name": REGION, **CREDENTIALS
        }  # fmt: skip
        self.use(self.define())

    def define(self, timeout_s: int | None = LONGEST_S + JOB_MARGIN_S, **values: Any) -> str:
        """The ARN of a new revision."""
        container = {
            "image": "mysite", "vcpus": 1, "memory": 512,
            "jobRoleArn": "arn:aws:iam::123456789012:role/jobs", **values,
        }  # fmt: skip
        timeout = {} if timeout_s is None else {"timeout": {"attemptDurationSeconds": timeout_s}}
        made = self.batch.register_job_definition(
            jobDefinitionName=self.name, type="container", containerProperties=container, **timeout
        )
        arn: str = made["jobDefinitionArn"]
        return arn

    def use(self, definition_arn: str) -> None:
        heavy = {"job_queue_arn": self.queue_arn, "job_definition_arn": definition_arn}
        self._settings.LAMBDA_TASKS_QUEUES = self._settings.LAMBDA_TASKS_QUEUES | {"heavy": heavy}

    def set_queue(self, **values: Any) -> None:
        self.batch.update_job_queue(jobQueue=self.name, **values)

    def set_environment(self, **values: Any) -> None:
        self.batch.update_compute_environment(computeEnvironment=self.name, **values)

    def forget_queue(self) -> None:
        self.queue_arn += "-gone"
        self.use(self.define())

    def deregister(self) -> None:
        arn = self.define()
        self.batch.deregister_job_definition(jobDefinition=arn)
        self.use(arn)

    def _describe(self) -> Any:
        (found,) = self.batch.describe_job_queues(jobQueues=[self.name])["jobQueues"]
        return found


@pytest.fixture
def jobs(moto: Moto, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    options = replace(tasks.add.options, queue="heavy", hard_timeout=LONGEST_S)
    monkeypatch.setattr(tasks.add, "options", options)
    yield Jobs(moto, settings)
    runtime.close()  # its clients are for moto alone


def of_batch(**options: Any) -> list[Finding]:
    return [each for each in operations.doctor(**options) if each.id.startswith("batch.")]


FAULTS: dict[str, Callable[[Jobs], object]] = {
    "batch.job_queue": lambda it: it.set_queue(state="DISABLED"),
    "batch.job_definition": lambda it: it.deregister(),
    "batch.compute_environment": lambda it: it.set_environment(state="DISABLED"),
    "batch.job_role": lambda it: it.use(it.define(jobRoleArn="")),
    "batch.timeout": lambda it: it.use(it.define(timeout_s=LONGEST_S)),
}


def test_nothing_is_found_where_all_is_well(jobs: Jobs) -> None:
    assert of_batch() == []


@pytest.mark.parametrize("id", FAULTS)
def test_each_fault_is_found_with_its_fix(jobs: Jobs, id: str) -> None:
    FAULTS[id](jobs)

    (found,) = of_batch()

    assert (found.id, found.is_checked, found.where) == (id, True, "queue heavy")
    assert found.fix


def test_a_job_queue_that_is_gone_is_named(jobs: Jobs) -> None:
    jobs.forget_queue()

    (found,) = of_batch()

    assert found.found == f"AWS Batch has no job queue {jobs.queue_arn}."


def test_a_definition_without_a_revision_is_the_latest_active_one(jobs: Jobs) -> None:
    jobs.use(jobs.define(timeout_s=60).rpartition(":")[0])
    assert {each.id for each in of_batch()} == {"batch.timeout"}

    jobs.define(timeout_s=None)

    assert of_batch() == []


def test_no_job_is_submitted_for_a_round_trip(jobs: Jobs) -> None:
    found = operations.doctor(round_trip=True, within=timedelta(seconds=1))

    assert "queue heavy" not in {each.where for each in found if each.id == "queue.round_trip"}


def test_each_check_is_tried() -> None:
    assert [each.id for each in examination.JOB_CHECKS] == list(FAULTS)
