"""The local SQS: reachable on loopback only, quiet, and gone with whoever started it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from lambda_tasks.local import LocalSqs

psutil: Any = pytest.importorskip("psutil")


@pytest.fixture(scope="module")
def sqs() -> Iterator[LocalSqs]:
    with LocalSqs() as server:
        yield server


def _process(server: LocalSqs) -> Any:
    [process] = [
        each
        for each in psutil.Process().children()
        if any(connection.laddr.port == server.port for connection in each.net_connections())
    ]
    return process


def _messages(server: LocalSqs, url: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, **options
    ).get("Messages", [])
    return found


def test_a_message_that_is_sent_can_be_received(sqs: LocalSqs) -> None:
    url = sqs.create_queue("there-and-back")

    sqs.client.send_message(QueueUrl=url, MessageBody="hello")

    assert [each["Body"] for each in _messages(sqs, url)] == ["hello"]


def test_counts_tell_visible_in_flight_and_delayed_messages_apart(sqs: LocalSqs) -> None:
    url = sqs.create_queue("counted")
    sqs.client.send_message(QueueUrl=url, MessageBody="received")
    _messages(sqs, url)
    sqs.client.send_message(QueueUrl=url, MessageBody="visible")
    sqs.client.send_message(QueueUrl=url, MessageBody="delayed", DelaySeconds=60)

    assert sqs.counts(url) == {"visible": 1, "in_flight": 1, "delayed": 1}


def test_a_purged_queue_is_empty(sqs: LocalSqs) -> None:
    url = sqs.create_queue("purged")
    sqs.client.send_message(QueueUrl=url, MessageBody="received")
    _messages(sqs, url)
    sqs.client.send_message(QueueUrl=url, MessageBody="visible")

    sqs.purge(url)

    assert sqs.counts(url) == {"visible": 0, "in_flight": 0, "delayed": 0}


def test_a_message_received_too_often_goes_to_the_dead_letter_queue(sqs: LocalSqs) -> None:
    url = sqs.create_queue("poisoned", max_receive_count=2)
    sqs.client.send_message(QueueUrl=url, MessageBody="poison")

    receives = [len(_messages(sqs, url, VisibilityTimeout=0)) for _ in range(3)]

    assert receives == [1, 1, 0]
    assert [each["Body"] for each in _messages(sqs, sqs.queue_url("poisoned-dlq"))] == ["poison"]


@pytest.mark.parametrize("name", ["ordered", "ordered.fifo"])
def test_a_fifo_queue_gets_the_suffix_that_sqs_wants_and_so_does_its_dead_letter_queue(
    sqs: LocalSqs, name: str
) -> None:
    url = sqs.create_queue(name, fifo=True, max_receive_count=2)

    assert url.endswith("/ordered.fifo")
    assert url == sqs.queue_url("ordered.fifo")
    assert sqs.queue_url("ordered-dlq.fifo").endswith("/ordered-dlq.fifo")


def test_the_visibility_timeout_is_the_queues(sqs: LocalSqs) -> None:
    url = sqs.create_queue("slow", visibility_timeout_s=77)

    attributes = sqs.client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])

    assert attributes["Attributes"]["VisibilityTimeout"] == "77"


def test_it_listens_on_loopback_and_nowhere_else(sqs: LocalSqs) -> None:
    listening = {
        each.laddr for each in _process(sqs).net_connections() if each.status == psutil.CONN_LISTEN
    }

    assert listening == {("127.0.0.1", sqs.port)}


def test_settings_of_another_ministack_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PORT", "1")
    monkeypatch.setenv("BIND_HOST", "0.0.0.0")
    monkeypatch.setenv("MINISTACK_ACCOUNT_ID", "123456789012")
    monkeypatch.setenv("USE_SSL", "1")

    with LocalSqs() as server:
        url = server.create_queue("mine")

    assert url == f"{server.endpoint_url}/000000000000/mine"


def test_it_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    with LocalSqs() as server:
        server.create_queue("one")

    assert list(tmp_path.rglob("*")) == []


def test_it_stops_twice_and_starts_again_on_the_same_port() -> None:
    server = LocalSqs()
    server.start()
    process, first = _process(server), server.create_queue("one")

    server.stop()
    server.stop()
    gone = not process.is_running()
    with server:
        second = server.create_queue("one")

    assert gone
    assert first == second


def test_it_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "import sys; from lambda_tasks.local import LocalSqs; server = LocalSqs(); server.start();"
        " print(server._process.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))

        os.kill(parent.pid, signal.SIGKILL)

    # An orphan's exit status belongs to whoever adopts it, so a zombie counts as ended.
    psutil.wait_procs([server], timeout=60)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_a_taken_port_is_an_error_that_leaves_no_process(sqs: LocalSqs) -> None:
    with pytest.raises(OSError, match="in use"):
        LocalSqs(port=sqs.port).start()


def test_a_server_that_does_not_start_says_what_it_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lambda_tasks.local.sqs_server._SERVER_SCRIPT", "raise SystemExit('no such thing')"
    )
    server = LocalSqs()

    with pytest.raises(RuntimeError, match="no such thing"):
        server.start()

    assert "stopped" in repr(server)


def test_without_ministack_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = util.find_spec
    monkeypatch.setattr(
        "lambda_tasks.local.sqs_server.find_spec",
        lambda name: None if name == "ministack" else find_spec(name),
    )

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lambda-tasks\[local\]'"):
        LocalSqs().start()
