"""The cold start: secrets from Secrets Manager, the memory limit, its order, and what follows when
it fails; in the real awslambdaric process where a process of its own matters."""

import json
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from django.db import connection

from lambda_tasks import LambdaTaskWrapper, cold_start
from lambda_tasks.cold_start import environment_loader
from lambda_tasks.errors import SecretUnavailable
from lambda_tasks.models import TaskRecord
from tests.app import places
from tests.conftest import body, record_of, sqs_event, wait_for
from tests.servers import FunctionError, LambdaProcess, Moto

ENVIRONMENT = "LAMBDA_TASKS_ENVIRONMENT_SECRETS_MANAGER_ARN"
ARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:mysite"
VALUE = "hunter2"


@pytest.fixture(autouse=True)
def aws(moto: Moto, monkeypatch: Any) -> Iterator[None]:
    """This process's environment, as it was, afterwards."""
    before = dict(os.environ)
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.fixture
def secret(moto: Moto) -> tuple[str, str]:
    content = {"KEY": VALUE, "PORT": 5432, "DEEP": {"a": 1}, "NONE": None}
    return moto.create_secret(f"mysite-{uuid.uuid4().hex}", json.dumps(content))


def test_the_environment_comes_from_a_secret_and_overrides(moto: Moto, monkeypatch: Any) -> None:
    content = {"COLD_A": "from the secret", "COLD_B": "b"}
    arn, version = moto.create_secret(f"env-{uuid.uuid4().hex}", json.dumps(content))
    monkeypatch.setenv("COLD_A", "from the function")
    monkeypatch.setenv(ENVIRONMENT, f"{arn}:{version}")

    cold_start.set_up()

    assert (os.environ["COLD_A"], os.environ["COLD_B"]) == ("from the secret", "b")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["LD_PRELOAD", "COLD_A"], "LD_PRELOAD"),
        (["PYTHONSTARTUP", "PYTHONPATH"], "PYTHONPATH, PYTHONSTARTUP"),
        (["LD_LIBRARY_PATH"], "LD_LIBRARY_PATH"),
        (["PYTHONHOME"], "PYTHONHOME"),
        (["PATH"], "PATH"),
        (["LAMBDA_TASKS_SECRET_LD_AUDIT"], "LAMBDA_TASKS_SECRET_LD_AUDIT"),
        (["LD_SDK_KEY", "PYTHONUNBUFFERED", "ENV", "COLD_PATH"], None),
    ],
)
def test_what_loads_other_code_is_loaded_and_told_by_name(
    moto: Moto, monkeypatch: Any, caplog: Any, names: list[str], told: str | None
) -> None:
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is as it was, afterwards
    arn, version = moto.create_secret(
        f"env-{uuid.uuid4().hex}", json.dumps(dict.fromkeys(names, VALUE))
    )
    monkeypatch.setenv(ENVIRONMENT, f"{arn}:{version}")

    environment_loader.load_environment()

    assert {os.environ[name] for name in names} == {VALUE}
    warnings = [each.getMessage() for each in caplog.records if each.name == "lambda_tasks"]
    assert [f" sets {told}, which decides" in each for each in warnings] == [True] * bool(told)
    assert VALUE not in caplog.text


def test_every_form_of_a_reference_is_read(moto: Moto, secret: Any, monkeypatch: Any) -> None:
    arn, version = secret
    moto.secrets.put_secret_value(SecretId=arn, SecretString='{"KEY": "newer"}')
    plain, _ = moto.create_secret(f"plain-{uuid.uuid4().hex}", "no JSON at all")
    references = {
        "BY_ID": (f"{arn}:KEY::{version}", VALUE),
        "BY_STAGE": (f"{arn}:KEY:AWSPREVIOUS:", VALUE),
        "BY_BOTH": (f"{arn}:KEY:AWSPREVIOUS:{version}", VALUE),
        "CURRENT": (f"{arn}:KEY::", "newer"),
        "A_NUMBER": (f"{arn}:PORT::{version}", "5432"),
        "WHOLE": (plain, "no JSON at all"),
    }
    for name, (reference, _) in references.items():
        monkeypatch.setenv(f"LAMBDA_TASKS_SECRET_{name}", reference)

    cold_start.set_up()
    cold_start.set_up()  # as after a failure that came later

    assert {name: os.environ[name] for name in references} == {
        name: value for name, (_, value) in references.items()
    }


def test_what_is_loaded_stays_as_the_project_has_changed_it(moto: Moto, monkeypatch: Any) -> None:
    arn, version = moto.create_secret(f"env-{uuid.uuid4().hex}", json.dumps({"COLD_A": VALUE}))
    monkeypatch.setenv(ENVIRONMENT, f"{arn}:{version}")
    monkeypatch.setenv("LAMBDA_TASKS_SECRET_COLD_B", f"{arn}:COLD_A::{version}")
    cold_start.set_up()
    os.environ["COLD_A"] = os.environ["COLD_B"] = "by the project"
    moto.secrets.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)

    cold_start.set_up()

    assert (os.environ["COLD_A"], os.environ["COLD_B"]) == ("by the project", "by the project")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("nonsense", "1 segments"),
        (ARN.replace("secretsmanager", "sqs"), "does not begin with arn:aws:secretsmanager"),
        (ARN.replace("us-east-1", ""), "does not begin with arn:aws:secretsmanager"),
        (f"{ARN}:KEY", "8 segments"),
        (f"{ARN}:KEY:", "9 segments"),
        (f"{ARN}:::v1", "JSON key is empty"),
        (f"{ARN}:KEY::v1:", "11 segments"),
    ],
)
def test_a_malformed_reference_is_named(monkeypatch: Any, reference: str, reason: str) -> None:
    monkeypatch.setenv("LAMBDA_TASKS_SECRET_X", reference)

    with pytest.raises(ValueError, match=f"LAMBDA_TASKS_SECRET_X .*{reason}"):
        cold_start.set_up()


@pytest.mark.parametrize(
    "reference", ["nonsense", ARN, f"{ARN}:", f"{ARN}:STAGE:", f"{ARN}:KEY::v1"]
)
def test_a_malformed_reference_of_the_environment_is_named(
    monkeypatch: Any, reference: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT, reference)

    with pytest.raises(ValueError, match=f"{ENVIRONMENT} is neither <arn>:<version-id> nor"):
        cold_start.set_up()


@pytest.mark.parametrize(
    ("key", "reason"),
    [("MISSING", "no key 'MISSING'"), ("DEEP", "is not a string"), ("NONE", "is not a string")],
)
def test_a_key_that_gives_no_text_is_named(
    secret: Any, monkeypatch: Any, key: str, reason: str
) -> None:
    monkeypatch.setenv("LAMBDA_TASKS_SECRET_X", f"{secret[0]}:{key}::{secret[1]}")

    with pytest.raises(ValueError, match=f"LAMBDA_TASKS_SECRET_X: .*{reason}") as error:
        cold_start.set_up()

    assert VALUE not in str(error.value)


@pytest.mark.parametrize(
    "text", [f"{VALUE}, no JSON", f'["{VALUE}"]', f'{{"A": ["{VALUE}"]}}', f'{{"": "{VALUE}"}}']
)
def test_a_secret_that_is_no_environment_sets_nothing(
    moto: Moto, monkeypatch: Any, text: str
) -> None:
    arn, version = moto.create_secret(f"bad-{uuid.uuid4().hex}", text)
    monkeypatch.setenv(ENVIRONMENT, f"{arn}:{version}")
    before = dict(os.environ)

    with pytest.raises(ValueError, match=ENVIRONMENT) as error:
        cold_start.set_up()

    assert VALUE not in str(error.value)
    assert dict(os.environ) == before


def test_an_environment_of_one_version_and_stage_is_loaded(moto: Moto, monkeypatch: Any) -> None:
    arn, version = moto.create_secret(f"staged-{uuid.uuid4().hex}", '{"COLD_STAGED": "yes"}')
    monkeypatch.setenv(ENVIRONMENT, f"{arn}:AWSCURRENT:{version}")
    monkeypatch.setenv("COLD_STAGED", "no")

    cold_start.set_up()

    assert os.environ["COLD_STAGED"] == "yes"


def test_all_that_is_wrong_with_an_environment_is_named(moto: Moto, monkeypatch: Any) -> None:
    text = '{"PORT": 5432, "GOOD": "x", "DEBUG": true, "A=B": "x"}'
    arn, version = moto.create_secret(f"bad-{uuid.uuid4().hex}", text)
    monkeypatch.setenv(ENVIRONMENT, f"{arn}:{version}")

    with pytest.raises(ValueError, match=ENVIRONMENT) as error:
        cold_start.set_up()

    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(word in str(error.value) for word in ("'PORT'", "'DEBUG'", "key 'A=B'"))


def test_all_references_that_are_wrong_are_named_at_once(secret: Any, monkeypatch: Any) -> None:
    good = f"{secret[0]}:KEY::"
    for name, reference in {"A": "nonsense", "B": f"{ARN}:::v1", "C": good, "D": good}.items():
        monkeypatch.setenv(f"LAMBDA_TASKS_SECRET_COLD_{name}", reference)
    monkeypatch.setenv("COLD_C", "here first")
    monkeypatch.setenv("COLD_D", "here first")

    with pytest.raises(ValueError, match="LAMBDA_TASKS_SECRET_COLD_A is neither") as error:
        cold_start.set_up()

    named = [line.split()[0].rstrip(":") for line in sorted(str(error.value).splitlines())]
    assert named == [f"LAMBDA_TASKS_SECRET_COLD_{name}" for name in "ABCD"]


def test_all_keys_that_are_missing_are_named_at_once(secret: Any, monkeypatch: Any) -> None:
    for name in ("FIRST", "SECOND"):
        reference = f"{secret[0]}:{name}::{secret[1]}"
        monkeypatch.setenv(f"LAMBDA_TASKS_SECRET_COLD_{name}", reference)

    with pytest.raises(ValueError, match="no key 'FIRST'") as error:
        cold_start.set_up()

    assert "no key 'SECOND'" in str(error.value)


def test_what_is_set_already_is_not_overwritten(secret: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("LAMBDA_TASKS_SECRET_COLD_X", f"{secret[0]}:KEY::")
    monkeypatch.setenv("COLD_X", "here first")

    with pytest.raises(ValueError, match="COLD_X is set already"):
        cold_start.set_up()

    assert os.environ["COLD_X"] == "here first"


def test_a_secret_that_aws_does_not_give_sets_none_and_is_named(
    secret: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("LAMBDA_TASKS_SECRET_COLD_GOOD", f"{secret[0]}:KEY::")
    monkeypatch.setenv("LAMBDA_TASKS_SECRET_COLD_GONE", f"{ARN}-gone:KEY::")

    with pytest.raises(SecretUnavailable, match=r"COLD_GONE.*ResourceNotFoundException"):
        cold_start.set_up()

    assert "COLD_GOOD" not in os.environ


class _Together(BaseHTTPRequestHandler):
    """Answers when three requests are waiting at the same time."""

    barrier = threading.Barrier(3)
    asked: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(request)
        self.barrier.wait(timeout=20)
        answer = json.dumps({"SecretString": '{"A": "a", "B": "b"}'}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_one_request_for_each_version_and_all_at_once(monkeypatch: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Together)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", url)
    for name, version in [("A1", "v1"), ("B1", "v1"), ("A2", "v2"), ("B2", "v2"), ("B3", "v3")]:
        reference = f"{ARN}:{name[0]}::{version}"
        monkeypatch.setenv(f"LAMBDA_TASKS_SECRET_COLD_{name}", reference)

    try:
        cold_start.set_up()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    assert sorted(each["VersionId"] for each in _Together.asked) == ["v1", "v2", "v3"]
    assert os.environ["COLD_B3"] == "b"


PARAMETERS = "LAMBDA_TASKS_SSM_ENVIRONMENT"


class Shelf:
    """Parameters below a path of this test's own."""

    def __init__(self, moto: Moto) -> None:
        self._store = moto.parameters
        self.path = f"/mysite-{uuid.uuid4().hex}/"

    def put(self, name: str, value: str, **options: Any) -> str:
        """Its full name."""
        full = self.path + name
        self._store.put_parameter(
            Name=full, Value=value, **{"Type": "SecureString", "Overwrite": True, **options}
        )
        return full


@pytest.fixture
def shelf(moto: Moto) -> Shelf:
    return Shelf(moto)


def test_parameters_below_a_path_are_variables_decrypted_and_of_all_pages(
    shelf: Shelf, monkeypatch: Any
) -> None:
    for i in range(25):
        shelf.put(f"COLD_{i}", f"value {i}")
    shelf.put("db/COLD_DEEP", "deep", Type="String")
    monkeypatch.setenv(PARAMETERS, shelf.path)

    cold_start.set_up()

    assert [os.environ[f"COLD_{i}"] for i in range(25)] == [f"value {i}" for i in range(25)]
    assert os.environ["COLD_DEEP"] == "deep"


def test_parameters_are_named_with_versions_and_variables_of_their_own(
    shelf: Shelf, monkeypatch: Any
) -> None:
    key = shelf.put("COLD_KEY", "first")
    shelf.put("COLD_KEY", "second")
    host = shelf.put("db-host", "localhost", Type="String")
    many = [shelf.put(f"COLD_N{i}", str(i)) for i in range(11)]
    parts = [f"COLD_OLD={key}:1", key, f" COLD_HOST={host} ", *many]
    monkeypatch.setenv(PARAMETERS, ",".join(parts))

    cold_start.set_up()

    found = [os.environ[f"COLD_{name}"] for name in ("OLD", "KEY", "HOST", "N10")]
    assert found == ["first", "second", "localhost", "10"]


def test_parameters_are_read_once(shelf: Shelf, monkeypatch: Any) -> None:
    shelf.put("COLD_ONCE", "stored")
    monkeypatch.setenv(PARAMETERS, shelf.path)
    cold_start.set_up()
    monkeypatch.setenv("COLD_ONCE", "changed by the project")

    cold_start.set_up()

    assert os.environ["COLD_ONCE"] == "changed by the project"


def test_a_parameter_may_refer_to_a_secret_and_may_not_bring_code_unseen(
    shelf: Shelf, secret: Any, monkeypatch: Any, caplog: Any
) -> None:
    shelf.put("LAMBDA_TASKS_SECRET_COLD_REFERRED", f"{secret[0]}:KEY::")
    shelf.put("PYTHONSTARTUP", "/tmp/code.py")
    monkeypatch.setenv(PARAMETERS, shelf.path)

    cold_start.set_up()

    assert os.environ["COLD_REFERRED"] == VALUE
    assert f"{PARAMETERS}, sets PYTHONSTARTUP, which decides" in caplog.text


def test_all_that_is_wrong_with_parameters_is_named_and_none_is_set(
    shelf: Shelf, monkeypatch: Any
) -> None:
    taken, one = shelf.put("COLD_TAKEN", VALUE), shelf.put("a/COLD_TWICE", VALUE)
    other, odd = shelf.put("b/COLD_TWICE", VALUE), shelf.put("db-host", VALUE)
    shelf.put("COLD_GOOD", VALUE)
    monkeypatch.setenv("COLD_TAKEN", "here first")
    monkeypatch.setenv(PARAMETERS, shelf.path)

    with pytest.raises(ValueError, match=PARAMETERS) as error:
        cold_start.set_up()

    text = str(error.value)
    assert f"{taken} sets COLD_TAKEN, which is set already" in text
    assert f"{one} sets COLD_TWICE, and so does {other}." in text
    assert f"{odd} can't set a variable 'db-host'. Name the variable: VARIABLE={odd}" in text
    assert VALUE not in text
    assert "COLD_GOOD" not in os.environ


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("/mysite/, no good", "'no good' is neither a path such as /mysite/ nor a parameter"),
        ("COLD_X=/mysite/", "names no variable for one parameter"),
        ("1X=/mysite/KEY", "names no variable for one parameter"),
        ("/", "is neither a path"),
    ],
)
def test_a_malformed_reference_to_parameters_is_named(
    monkeypatch: Any, value: str, reason: str
) -> None:
    monkeypatch.setenv(PARAMETERS, value)

    with pytest.raises(ValueError, match=f"{PARAMETERS}: .*{reason}"):
        cold_start.set_up()


def test_a_path_without_parameters_is_a_mistake(shelf: Shelf, monkeypatch: Any) -> None:
    monkeypatch.setenv(PARAMETERS, shelf.path)

    with pytest.raises(ValueError, match=f"there is no parameter below {shelf.path}"):
        cold_start.set_up()


def test_parameters_that_aws_does_not_have_are_all_named(shelf: Shelf, monkeypatch: Any) -> None:
    known, gone = shelf.put("COLD_KNOWN", "x"), [f"{shelf.path}COLD_{n}" for n in "AB"]
    monkeypatch.setenv(PARAMETERS, ",".join([known, *gone]))

    with pytest.raises(SecretUnavailable, match="ParameterNotFound") as error:
        cold_start.set_up()

    assert [f"{PARAMETERS}: {each}: " in str(error.value) for each in gone] == [True, True]
    assert "COLD_KNOWN" not in os.environ


def run_in(function: LambdaProcess, task: LambdaTaskWrapper[Any, Any], **kwargs: Any) -> TaskRecord:
    message = body(task, **kwargs)
    answer = function.invoke(sqs_event(message))
    assert answer == {"batchItemFailures": []}
    return record_of(message)


def test_the_order_is_environment_then_secrets_then_django_then_worker_processes(
    moto: Moto, transactional_db: None
) -> None:
    secret_arn, _ = moto.create_secret(f"single-{uuid.uuid4().hex}", '{"KEY": "the secret"}')
    arn, version = moto.create_secret(
        f"env-{uuid.uuid4().hex}",
        json.dumps(
            {
                "DJANGO_SETTINGS_MODULE": "tests.cold_settings",
                "FROM_ENVIRONMENT": "the environment",
                "LAMBDA_TASKS_SECRET_FROM_SECRET": f"{secret_arn}:KEY::",
            }
        ),
    )
    env: Any = moto.env | {ENVIRONMENT: f"{arn}:{version}"}
    with LambdaProcess(**env) as function:
        record = run_in(function, places.environment, name="FROM_SECRET")

        assert "the settings see the environment and the secret" in function.output
    assert record.result == "the secret", "of a worker process"


def test_a_cold_start_that_fails_says_why_and_the_next_invocation_tries_again(
    moto: Moto, transactional_db: None
) -> None:
    arn, _ = moto.create_secret(f"late-{uuid.uuid4().hex}", "{}")
    env: Any = moto.env | {"LAMBDA_TASKS_SECRET_LATE": f"{arn}:KEY::"}
    with LambdaProcess(**env) as function:
        with pytest.raises(FunctionError, match="LAMBDA_TASKS_SECRET_LATE: the secret has no key"):
            function.invoke({"lambda_tasks": "ping"})
        moto.secrets.put_secret_value(SecretId=arn, SecretString='{"KEY": "in time"}')
        function.stop()
        function.start()

        record = run_in(function, places.environment, name="LATE")
    assert record.result == "in time"


def test_a_task_beyond_the_memory_fails_alone(transactional_db: None) -> None:
    with LambdaProcess(AWS_LAMBDA_FUNCTION_MEMORY_SIZE="1024") as function:
        before = run_in(function, places.memory_limit)
        hogged = run_in(function, places.hog, mib=1000)
        fitting = run_in(function, places.hog, mib=200)
        after = run_in(function, places.memory_limit)

    assert before.result is not None
    assert before.result["limit_mib"] == 1024 - 128
    assert hogged.status == "FAILED"
    assert "MemoryError" in (hogged.traceback or "")
    assert fitting.result == 200 << 20
    assert after.result == before.result, "in the same process"


def test_the_smallest_function_starts_and_runs_tasks_of_both_kinds(transactional_db: None) -> None:
    from tests.app import tasks

    with LambdaProcess(AWS_LAMBDA_FUNCTION_MEMORY_SIZE="128") as function:
        assert run_in(function, tasks.leave_effect, name="sync").status == "SUCCESS"
        assert run_in(function, tasks.aleave_effect, name="async").status == "SUCCESS"
        assert run_in(function, places.hog, mib=16).status == "SUCCESS"


def test_a_snapshot_holds_no_connection_and_a_restored_function_opens_its_own(
    transactional_db: None,
) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("the server is asked for its connections")
    name = f"snapshot-{uuid.uuid4().hex[:8]}"
    environment: Any = {
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
        "TESTS_CONNECT_AT_START": "1",
        "PGAPPNAME": name,
    }
    with LambdaProcess(**environment) as function:
        function.wait_for_snapshot()
        wait_for(lambda: "connected at its start" in function.output)  # it comes by a pipe
        assert connections_called(name) == 0
        function.restore()

        assert run_in(function, places.memory_limit).status == "SUCCESS"
        assert connections_called(name) > 0


def connections_called(name: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [name])
        count: int = cursor.fetchone()[0]
        return count
