"""Records and messages that an earlier release has left are read and run.

GOLDEN was written by the commit bb824b0, before the modules of the package were moved: tasks of
`tests/app` were called there, run there where a status says so, and every row and SQS body was
kept. Columns that held their default are left out, tracebacks have their last line alone.
"""

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from uuid import UUID

import pytest
from django.utils.dateparse import parse_datetime

from lambda_tasks import Invocation
from lambda_tasks.models import RunState, TaskRecord
from lambda_tasks.records.clock import Now
from lambda_tasks.records.encryption import decrypt
from tests import test_batch
from tests.app import django_tasks
from tests.app.models import Effect
from tests.conftest import Handle, relay, wait_for
from tests.test_batch import Jobs
from tests.test_table_queue import worker

pytestmark = pytest.mark.django_db(transaction=True)

jobs = test_batch.jobs
TIMES: Final = ("enqueued_at", "sent_at", "run_after", "start_time", "end_time", "lease_until")


class Kept(NamedTuple):
    """What one call has left: its records, and what was still in the queue."""

    rows: list[dict[str, Any]]
    bodies: list[str]


GOLDEN: Final[dict[str, Kept]] = {
    "durable": Kept(
        rows=[
            {
                "id": "6b508f6c-29f6-41da-b33a-a70211bfa15d",
                "task_name": "tests.app.tasks.leave_effect",
                "kwargs": {"name": "durable"},
                "queue": "default",
                "status": "QUEUED",
                "root_id": "6b508f6c-29f6-41da-b33a-a70211bfa15d",
                "enqueued_at": "2025-11-26T06:40:42.531000Z",
                "sent_at": "2025-11-26T06:40:44.100000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.tasks.leave_effect","kwargs":{"name":"durable"},"n'
                '_retries":0,"invocation_id":"6b508f6c-29f6-41da-b33a-a70211bfa15d","durabl'
                'e":true}'
            ),
        ],
    ),
    "direct": Kept(
        rows=[],
        bodies=[
            (
                '{"task_name":"tests.app.tasks.leave_effect_direct","kwargs":{"name":"direc'
                't"},"n_retries":0,"invocation_id":"3b28fdbb-6e46-4a4c-ac13-eab8baa39acd"}'
            ),
        ],
    ),
    "table": Kept(
        rows=[
            {
                "id": "867c928f-7624-4e2d-b278-d8be20f4e338",
                "task_name": "tests.app.tasks.leave_effect",
                "kwargs": {"name": "table"},
                "queue": "table",
                "priority": 7,
                "status": "QUEUED",
                "root_id": "867c928f-7624-4e2d-b278-d8be20f4e338",
                "enqueued_at": "2025-11-26T06:40:44.166000Z",
            },
        ],
        bodies=[],
    ),
    "cleanup": Kept(
        rows=[
            {
                "id": "20d3397b-9141-4b10-b257-d2898d1779a9",
                "task_name": "lambda_tasks.tasks.cleanup_task_records",
                "kwargs": {"retention_days": 1},
                "queue": "default",
                "status": "QUEUED",
                "root_id": "20d3397b-9141-4b10-b257-d2898d1779a9",
                "enqueued_at": "2025-11-26T06:40:44.176000Z",
                "sent_at": "2025-11-26T06:40:44.181000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"lambda_tasks.tasks.cleanup_task_records","kwargs":{"retentio'
                'n_days":1},"n_retries":0,"invocation_id":"20d3397b-9141-4b10-b257-d2898d17'
                '79a9","durable":true}'
            ),
        ],
    ),
    "heavy": Kept(
        rows=[
            {
                "id": "1d34ec62-38b2-4b13-b282-758db774be88",
                "task_name": "tests.app.tasks.leave_effect",
                "kwargs": {"name": "heavy"},
                "queue": "heavy",
                "status": "QUEUED",
                "root_id": "1d34ec62-38b2-4b13-b282-758db774be88",
                "enqueued_at": "2025-11-26T06:40:44.212000Z",
                "sent_at": "2025-11-26T06:40:44.220000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"lambda_tasks.tasks.submit_batch_job","kwargs":{"message_json'
                '":"{\\"task_name\\":\\"tests.app.tasks.leave_effect\\",\\"kwargs\\":{\\"name\\":\\"'
                'heavy\\"},\\"n_retries\\":0,\\"invocation_id\\":\\"1d34ec62-38b2-4b13-b282-758db'
                '774be88\\",\\"queue\\":\\"heavy\\",\\"durable\\":true}","batch_queue":"heavy"},"n'
                '_retries":0,"invocation_id":"77798e42-0c33-4979-9af9-5ea581ca3b52"}'
            ),
        ],
    ),
    "secret": Kept(
        rows=[
            {
                "id": "83f581cc-5d47-451c-a732-5275ad0c0356",
                "task_name": "tests.app.secretive.pay",
                "kwargs": {"account": "7", "token": "**********"},
                "queue": "default",
                "status": "QUEUED",
                "secrets": (
                    "gAAAAABrB9RsVGOfAaiKDlvVD9H4m2WOq6Ag29OXYUWZY3nK6HPLkblW3DpQsgeXytHoVaMD"
                    "NxgVRavl5ucSfRazhdeDfDrPN2quM22IRMTcz8D0PH7yu_ca5_LypNu3ExZ_s0E4pMUf"
                ),
                "root_id": "83f581cc-5d47-451c-a732-5275ad0c0356",
                "enqueued_at": "2025-11-26T06:40:44.324000Z",
                "sent_at": "2025-11-26T06:40:44.338000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.secretive.pay","kwargs":{"account":"7","token":"a-'
                'token-of-the-bank"},"n_retries":0,"invocation_id":"83f581cc-5d47-451c-a732'
                '-5275ad0c0356","durable":true}'
            ),
        ],
    ),
    "django": Kept(
        rows=[
            {
                "id": "1a155416-1a82-434a-ac0b-546153000f71",
                "task_name": "tests.app.django_tasks.add",
                "args": [3],
                "kwargs": {"b": 4},
                "backend": "default",
                "queue": "default",
                "status": "QUEUED",
                "root_id": "1a155416-1a82-434a-ac0b-546153000f71",
                "enqueued_at": "2025-11-26T06:40:44.373066Z",
                "sent_at": "2025-11-26T06:40:44.390000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.django_tasks.add","kwargs":{"b":4},"n_retries":0,"'
                'invocation_id":"1a155416-1a82-434a-ac0b-546153000f71","args":[3],"backend"'
                ':"default","queue":"default","durable":true}'
            ),
        ],
    ),
    "waited": Kept(
        rows=[
            {
                "id": "0ac50489-7fd1-4132-ac78-2c6384a6d486",
                "task_name": "tests.app.django_tasks.alone",
                "kwargs": {},
                "backend": "default",
                "queue": "default",
                "status": "RETRYING",
                "exception_class": "lambda_tasks.execution.lock_error.SingletonLockError",
                "traceback": (
                    "lambda_tasks.execution.lock_error.SingletonLockError: lambda_tasks.singl"
                    "eton_lock.tests.app.django_tasks.alone is held by another run."
                ),
                "n_attempts": 1,
                "root_id": "0ac50489-7fd1-4132-ac78-2c6384a6d486",
                "enqueued_at": "2025-11-26T06:40:44.413032Z",
                "sent_at": "2025-11-26T06:40:44.420000Z",
                "start_time": "2025-11-26T06:40:46.137612Z",
                "end_time": "2025-11-26T06:40:46.188000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "626286f6-d044-4a07-8503-8457da0bad3f",
                "lease_until": "2025-11-26T06:42:12.498000Z",
            },
            {
                "id": "11961625-a546-54a3-89b9-ed5bea50c297",
                "task_name": "tests.app.django_tasks.alone",
                "kwargs": {},
                "backend": "default",
                "queue": "default",
                "status": "QUEUED",
                "n_retries": 1,
                "root_id": "0ac50489-7fd1-4132-ac78-2c6384a6d486",
                "retry_of": "0ac50489-7fd1-4132-ac78-2c6384a6d486",
                "enqueued_at": "2025-11-26T06:40:46.199000Z",
                "sent_at": "2025-11-26T06:40:46.219000Z",
                "run_after": "2025-11-26T06:40:47.199000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.django_tasks.alone","kwargs":{},"n_retries":1,"inv'
                'ocation_id":"11961625-a546-54a3-89b9-ed5bea50c297","backend":"default","qu'
                'eue":"default","durable":true,"root_id":"0ac50489-7fd1-4132-ac78-2c6384a6d'
                '486","retry_of":"0ac50489-7fd1-4132-ac78-2c6384a6d486"}'
            ),
        ],
    ),
    "unknown": Kept(
        rows=[
            {
                "id": "cbd124eb-48c2-4d68-9f0e-a710c01ff816",
                "task_name": "tests.app.django_tasks.aalone",
                "kwargs": {},
                "backend": "default",
                "queue": "default",
                "status": "RETRYING",
                "exception_class": "lambda_tasks.errors.SingletonLockUnknown",
                "traceback": (
                    "lambda_tasks.errors.SingletonLockUnknown: Redis can't be asked for lambd"
                    "a_tasks.singleton_lock.tests.app.django_tasks.aalone."
                ),
                "n_attempts": 1,
                "root_id": "cbd124eb-48c2-4d68-9f0e-a710c01ff816",
                "enqueued_at": "2025-11-26T06:40:52.255750Z",
                "sent_at": "2025-11-26T06:40:52.275000Z",
                "start_time": "2025-11-26T06:40:52.313527Z",
                "end_time": "2025-11-26T06:40:52.331000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "b5884ea3-62aa-4687-9ad6-a9bab826e2ce",
                "lease_until": "2025-11-26T06:42:20.299000Z",
            },
            {
                "id": "542b4930-6428-5760-a3f4-33f13442f936",
                "task_name": "tests.app.django_tasks.aalone",
                "kwargs": {},
                "backend": "default",
                "queue": "default",
                "status": "QUEUED",
                "n_retries": 1,
                "root_id": "cbd124eb-48c2-4d68-9f0e-a710c01ff816",
                "retry_of": "cbd124eb-48c2-4d68-9f0e-a710c01ff816",
                "enqueued_at": "2025-11-26T06:40:52.332000Z",
                "sent_at": "2025-11-26T06:40:52.339000Z",
                "run_after": "2025-11-26T06:41:10.332000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.django_tasks.aalone","kwargs":{},"n_retries":1,"in'
                'vocation_id":"542b4930-6428-5760-a3f4-33f13442f936","backend":"default","q'
                'ueue":"default","durable":true,"root_id":"cbd124eb-48c2-4d68-9f0e-a710c01f'
                'f816","retry_of":"cbd124eb-48c2-4d68-9f0e-a710c01ff816"}'
            ),
        ],
    ),
    "asked": Kept(
        rows=[
            {
                "id": "ba1d7f69-391a-49a3-a6a7-a66a82026cac",
                "task_name": "tests.app.django_tasks.ask_twice_and_fail",
                "kwargs": {},
                "backend": "default",
                "queue": "default",
                "status": "RETRYING",
                "exception_class": "lambda_tasks.errors.Retry",
                "traceback": "lambda_tasks.errors.Retry: The task asked to be run again.",
                "n_attempts": 1,
                "root_id": "ba1d7f69-391a-49a3-a6a7-a66a82026cac",
                "enqueued_at": "2025-11-26T06:41:12.354514Z",
                "sent_at": "2025-11-26T06:41:12.366000Z",
                "start_time": "2025-11-26T06:41:12.384701Z",
                "end_time": "2025-11-26T06:41:12.386000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "7ce79113-51dc-40bb-9777-be3ba9350fb8",
                "lease_until": "2025-11-26T06:42:40.382000Z",
            },
            {
                "id": "478bf7cb-296c-5ff2-8eb8-fdf60099d500",
                "task_name": "tests.app.django_tasks.ask_twice_and_fail",
                "kwargs": {},
                "backend": "default",
                "queue": "default",
                "status": "RETRYING",
                "exception_class": "lambda_tasks.errors.Retry",
                "traceback": "lambda_tasks.errors.Retry: The task asked to be run again.",
                "n_retries": 1,
                "n_attempts": 1,
                "root_id": "ba1d7f69-391a-49a3-a6a7-a66a82026cac",
                "retry_of": "ba1d7f69-391a-49a3-a6a7-a66a82026cac",
                "enqueued_at": "2025-11-26T06:41:12.387000Z",
                "sent_at": "2025-11-26T06:41:12.399000Z",
                "run_after": "2025-11-26T06:41:15.387000Z",
                "start_time": "2025-11-26T06:41:18.426665Z",
                "end_time": "2025-11-26T06:41:18.433000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "e5bd19ff-6736-4707-a36e-f7e1cc510b54",
                "lease_until": "2025-11-26T06:42:46.420000Z",
            },
            {
                "id": "7b7b4f46-db20-580e-a2e5-87c630e8932f",
                "task_name": "tests.app.django_tasks.ask_twice_and_fail",
                "kwargs": {},
                "backend": "default",
                "queue": "default",
                "status": "QUEUED",
                "n_retries": 2,
                "root_id": "ba1d7f69-391a-49a3-a6a7-a66a82026cac",
                "retry_of": "478bf7cb-296c-5ff2-8eb8-fdf60099d500",
                "enqueued_at": "2025-11-26T06:41:18.434000Z",
                "sent_at": "2025-11-26T06:41:18.441000Z",
                "run_after": "2025-11-26T06:41:20.434000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.django_tasks.ask_twice_and_fail","kwargs":{},"n_re'
                'tries":2,"invocation_id":"7b7b4f46-db20-580e-a2e5-87c630e8932f","backend":'
                '"default","queue":"default","durable":true,"root_id":"ba1d7f69-391a-49a3-a'
                '6a7-a66a82026cac","retry_of":"478bf7cb-296c-5ff2-8eb8-fdf60099d500"}'
            ),
        ],
    ),
    "success": Kept(
        rows=[
            {
                "id": "eb6123ad-ae25-4d73-b279-fa033af9a94d",
                "task_name": "tests.app.tasks.add",
                "kwargs": {"a": 1},
                "queue": "default",
                "status": "SUCCESS",
                "result": 3,
                "n_attempts": 1,
                "root_id": "eb6123ad-ae25-4d73-b279-fa033af9a94d",
                "enqueued_at": "2025-11-26T06:41:24.492000Z",
                "sent_at": "2025-11-26T06:41:24.510000Z",
                "start_time": "2025-11-26T06:41:24.563170Z",
                "end_time": "2025-11-26T06:41:24.598000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "f11ca4e0-f017-4cf7-b8b3-a2469287c492",
                "lease_until": "2025-11-26T06:42:52.558000Z",
            },
        ],
        bodies=[],
    ),
    "failed": Kept(
        rows=[
            {
                "id": "8bf71616-a039-4449-8e87-3c272f12f1e0",
                "task_name": "tests.app.tasks.write_and_fail",
                "kwargs": {"name": "x"},
                "queue": "default",
                "status": "FAILED",
                "exception_class": "builtins.ValueError",
                "traceback": "ValueError: failed after writing x",
                "n_attempts": 1,
                "root_id": "8bf71616-a039-4449-8e87-3c272f12f1e0",
                "enqueued_at": "2025-11-26T06:41:24.617000Z",
                "sent_at": "2025-11-26T06:41:24.638000Z",
                "start_time": "2025-11-26T06:41:24.693595Z",
                "end_time": "2025-11-26T06:41:24.696000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "0e287259-994b-4e29-b18e-5f904aff52fe",
                "lease_until": "2025-11-26T06:42:52.686000Z",
            },
        ],
        bodies=[],
    ),
    "cancelled": Kept(
        rows=[
            {
                "id": "1653ba28-33f0-40b0-8025-c281a6eef080",
                "task_name": "tests.app.tasks.add",
                "kwargs": {"a": 1},
                "queue": "default",
                "status": "CANCELLED",
                "root_id": "1653ba28-33f0-40b0-8025-c281a6eef080",
                "enqueued_at": "2025-11-26T06:41:24.727000Z",
                "sent_at": "2025-11-26T06:41:24.762000Z",
                "end_time": "2025-11-26T06:41:24.763000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.tasks.add","kwargs":{"a":1},"n_retries":0,"invocat'
                'ion_id":"1653ba28-33f0-40b0-8025-c281a6eef080","durable":true}'
            ),
        ],
    ),
    "continued": Kept(
        rows=[
            {
                "id": "68da3087-3f83-4f19-b332-91888aa57608",
                "task_name": "tests.app.resuming.count_to_two",
                "kwargs": {},
                "queue": "default",
                "status": "SUCCESS",
                "state": {"page": 2},
                "n_attempts": 1,
                "root_id": "68da3087-3f83-4f19-b332-91888aa57608",
                "enqueued_at": "2025-11-26T06:41:24.803000Z",
                "sent_at": "2025-11-26T06:41:24.819000Z",
                "start_time": "2025-11-26T06:41:24.877510Z",
                "end_time": "2025-11-26T06:41:24.879000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "7d3b3984-0efa-4a92-975b-509ea1af09f7",
                "lease_until": "2025-11-26T06:42:52.857000Z",
            },
            {
                "id": "756123ed-165b-5a90-8b99-882eee9cbe58",
                "task_name": "tests.app.resuming.count_to_two",
                "kwargs": {},
                "queue": "default",
                "status": "QUEUED",
                "state": {"page": 2},
                "root_id": "68da3087-3f83-4f19-b332-91888aa57608",
                "retry_of": "68da3087-3f83-4f19-b332-91888aa57608",
                "enqueued_at": "2025-11-26T06:41:24.880000Z",
                "sent_at": "2025-11-26T06:41:24.908000Z",
                "run_after": "2025-11-26T06:41:25.880000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.resuming.count_to_two","kwargs":{},"n_retries":0,"'
                'invocation_id":"756123ed-165b-5a90-8b99-882eee9cbe58","durable":true,"root'
                '_id":"68da3087-3f83-4f19-b332-91888aa57608","retry_of":"68da3087-3f83-4f19'
                '-b332-91888aa57608"}'
            ),
        ],
    ),
    "lost": Kept(
        rows=[
            {
                "id": "36b68b8d-2842-40a2-8526-2dead5c1c8f0",
                "task_name": "tests.app.tasks.add",
                "kwargs": {"a": 5},
                "queue": "default",
                "status": "RUNNING",
                "n_attempts": 1,
                "root_id": "36b68b8d-2842-40a2-8526-2dead5c1c8f0",
                "enqueued_at": "2025-11-26T06:41:26.932000Z",
                "sent_at": "2025-11-26T06:41:26.945000Z",
                "start_time": "2025-11-26T06:41:26.976000Z",
                "worker_ids": "vm:22296\n",
                "claim_token": "73e7b138-0dd6-4d74-a3e6-f1f11b91d886",
                "lease_until": "2025-11-26T06:41:25.976000Z",
            },
        ],
        bodies=[
            (
                '{"task_name":"tests.app.tasks.add","kwargs":{"a":5},"n_retries":0,"invocat'
                'ion_id":"36b68b8d-2842-40a2-8526-2dead5c1c8f0","durable":true}'
            ),
        ],
    ),
}


def _restore(name: str) -> Kept:
    """Put the records of one call into the table, as they were; its bodies are to be delivered."""
    for row in GOLDEN[name].rows:
        times: dict[str, Any] = {each: parse_datetime(row[each]) for each in TIMES if each in row}
        columns = {key: value for key, value in row.items() if key != "state"}
        # A column that is new since, which no finished record has.
        look_at = Now() if row["status"] in ("QUEUED", "RUNNING") else None
        record = TaskRecord.objects.create(**(columns | times), look_at=look_at)
        if row["status"] == "QUEUED" and "state" in row:
            # A column then, and since the only migration that was released a table of its own.
            RunState.objects.create(record=record, attempt=0, state=row["state"])
    return GOLDEN[name]


def _record(name: str) -> TaskRecord:
    """The last record of a call, as it is now."""
    return TaskRecord.objects.get(id=GOLDEN[name].rows[-1]["id"])


def _effects() -> list[str]:
    return list(Effect.objects.values_list("name", flat=True))


def test_a_durable_message_finds_its_record_and_runs(handle: Handle) -> None:
    kept = _restore("durable")

    assert handle(*kept.bodies) == []

    assert _record("durable").status == "SUCCESS"
    assert _effects() == ["durable"]


def test_a_durable_message_without_its_record_is_not_run(handle: Handle) -> None:
    assert handle(*GOLDEN["durable"].bodies) == [0]

    assert _effects() == []


def test_a_direct_message_runs(handle: Handle) -> None:
    [body] = GOLDEN["direct"].bodies

    assert handle(body) == []

    record = TaskRecord.objects.get()
    assert (str(record.id), record.status) == (json.loads(body)["invocation_id"], "SUCCESS")
    assert _effects() == ["direct"]


def test_what_was_stored_and_not_sent_is_sent_and_runs(
    queue: str, work_off: Callable[[str], int]
) -> None:
    _restore("durable")
    TaskRecord.objects.update(sent_at=None)

    assert relay() == 1
    work_off(queue)

    assert _effects() == ["durable"]


def test_what_waits_in_a_queue_that_is_the_table_runs() -> None:
    _restore("table")

    with worker():
        wait_for(lambda: _record("table").status == "SUCCESS")

    assert _effects() == ["table"]


def test_a_built_in_task_runs_and_knows_what_is_finished(handle: Handle) -> None:
    kept = _restore("cleanup")
    finished = ["success", "failed", "cancelled"]
    for name in (*finished, "durable"):
        _restore(name)

    assert handle(*kept.bodies) == []

    assert _record("cleanup").result == len(finished)
    left = [str(id) for id in TaskRecord.objects.values_list("id", flat=True)]
    assert sorted(left) == sorted(GOLDEN[name].rows[0]["id"] for name in ("cleanup", "durable"))


def test_a_message_of_aws_batch_is_submitted_and_its_job_runs(jobs: Jobs, handle: Handle) -> None:
    kept = _restore("heavy")

    assert handle(*kept.bodies) == []

    [job] = jobs.submitted()
    assert jobs.run(job) == 0
    assert _record("heavy").status == "SUCCESS"
    assert _effects() == ["heavy"]


def test_secrets_are_decrypted(queue: str, work_off: Callable[[str], int]) -> None:
    kept = _restore("secret")
    [row] = kept.rows
    assert decrypt(row["secrets"], id=UUID(row["id"])) == {"token": "a-token-of-the-bank"}
    TaskRecord.objects.update(sent_at=None)

    assert relay() == 1
    work_off(queue)

    record = _record("secret")
    assert (record.status, record.result, record.secrets) == ("SUCCESS", 19, None)


def test_a_task_of_djangos_runs_and_its_result_is_read(handle: Handle) -> None:
    kept = _restore("django")
    result = django_tasks.add.get_result(kept.rows[0]["id"])
    assert (result.status, result.args, result.kwargs) == ("READY", [3], {"b": 4})

    assert handle(*kept.bodies) == []

    result.refresh()
    assert (result.status, result.return_value, result.attempts) == ("SUCCESSFUL", 7, 1)


@pytest.mark.parametrize(
    ("name", "task", "value"),
    [("waited", django_tasks.alone, 1), ("unknown", django_tasks.aalone, None)],
)
def test_a_singleton_that_has_waited_has_had_no_attempt(
    handle: Handle, name: str, task: Any, value: Any
) -> None:
    kept = _restore(name)
    result = task.get_result(kept.rows[0]["id"])
    assert (result.status, result.attempts, result.errors) == ("READY", 0, [])

    assert handle(*kept.bodies) == []

    result.refresh()
    assert (result.status, result.attempts, result.errors) == ("SUCCESSFUL", 1, [])
    assert result.return_value == value


def test_a_retry_that_the_task_has_asked_for_counts_as_no_failure(handle: Handle) -> None:
    kept = _restore("asked")
    result = django_tasks.ask_twice_and_fail.get_result(kept.rows[0]["id"])
    assert (result.status, result.attempts) == ("READY", 2)
    assert [each.exception_class.__name__ for each in result.errors] == ["Retry"] * 2

    assert handle(*kept.bodies) == []

    result.refresh()
    assert (result.status, result.attempts) == ("READY", 3)
    assert result.errors[-1].exception_class is ConnectionError
    assert _record("asked").status == "RETRYING", "of its two attempts it has had one"


@pytest.mark.parametrize(
    ("name", "status", "result", "error"),
    [
        ("success", "SUCCESS", 3, None),
        ("failed", "FAILED", None, "builtins.ValueError"),
        ("cancelled", "CANCELLED", None, None),
    ],
)
def test_what_has_ended_is_read_and_does_not_run_again(
    handle: Handle, name: str, status: str, result: Any, error: str | None
) -> None:
    [row] = _restore(name).rows
    before = TaskRecord.objects.values().get()
    called = {"task_name": row["task_name"], "kwargs": row["kwargs"], "n_retries": 0}
    again = json.dumps({**called, "invocation_id": row["id"], "durable": True})

    assert handle(again) == []

    assert TaskRecord.objects.values().get() == before
    record = _record(name)
    assert record.TaskStatus(record.status) is record.TaskStatus[status]
    assert (record.result, record.exception_class) == (result, error)


def test_a_run_goes_on_from_the_state_that_was_handed_on(handle: Handle) -> None:
    kept = _restore("continued")

    assert handle(*kept.bodies) == []

    record = _record("continued")
    assert (record.status, record.result) == ("SUCCESS", "{'page': 2}")
    whole = Invocation(UUID(kept.rows[0]["id"]), "tests.app.resuming.count_to_two")
    assert whole.result(timeout=0) == "{'page': 2}"


def test_what_a_worker_had_claimed_before_it_died_is_taken_over(handle: Handle) -> None:
    kept = _restore("lost")

    assert handle(*kept.bodies) == []

    record = _record("lost")
    assert (record.status, record.result, record.n_attempts) == ("SUCCESS", 7, 2)
    assert (record.worker_ids or "").splitlines()[0] == "vm:22296"
