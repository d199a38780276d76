"""What all workers are measured with: a mark that each task leaves, and the worker's processes."""

import mmap
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

MARKS: Final = Path(os.environ["BENCHMARK_MARKS"])
"""The directory where each process leaves its marks, in a file of its own."""

MARK: Final = struct.Struct("qdd")
"""The number of tasks that a process has run, and the times of its first and its last one."""

LIMIT_S: Final = 300
"""Seconds for a worker to run what it is given."""

TICKS: Final = os.sysconf("SC_CLK_TCK")

_lock = threading.Lock()
_mine: dict[int, mmap.mmap] = {}
_workers: list[subprocess.Popen[bytes]] = []


def mark() -> None:
    """Note that a task has run. A task does nothing else."""
    pid, now = os.getpid(), time.time()
    with _lock:
        if pid not in _mine:
            path = MARKS / str(pid)
            path.write_bytes(MARK.pack(0, now, now))
            with path.open("r+b") as file:
                _mine[pid] = mmap.mmap(file.fileno(), MARK.size)
        count, first, _ = MARK.unpack(_mine[pid][:])
        _mine[pid][:] = MARK.pack(count + 1, first, now)


def work_off(messages: int, commands: Sequence[Sequence[str]]) -> dict[str, float]:
    """Start workers, and return what they need for the messages that wait for them."""
    _forget_marks()
    start(commands)
    try:
        _wait_for(messages)
        cpu_s, rss_mib = _usage()
    finally:
        stop()
    marks = list(_marks())
    seconds = max(last for _, _, last in marks) - min(first for _, first, _ in marks)
    return {
        "per_second": messages / seconds,
        "cpu_ms": 1000 * cpu_s / messages,
        "rss_mib": rss_mib,
    }


def lone(call: Callable[[], Any], commands: Sequence[Sequence[str]], calls: int) -> float:
    """Return the median milliseconds from a call to the end of its task, by an idle worker."""
    _forget_marks()
    start(commands)
    try:
        call()
        _wait_for(1)
        time.sleep(2)
        waits = []
        for number in range(calls):
            began_at = time.time()
            call()
            _wait_for(number + 2, pause_s=0.0005)
            waits.append(max(last for _, _, last in _marks()) - began_at)
            time.sleep(0.05)
    finally:
        stop()
    return 1000 * median(waits)


def start(commands: Sequence[Sequence[str]]) -> None:
    for each in commands:
        _workers.append(
            subprocess.Popen([sys.executable, *each], stdout=sys.stderr, start_new_session=True)
        )


def stop() -> None:
    while _workers:
        worker = _workers.pop()
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, 9)
            worker.wait()


def _marks() -> Iterator[tuple[int, float, float]]:
    for path in MARKS.iterdir():
        data = path.read_bytes()
        if len(data) == MARK.size:
            yield MARK.unpack(data)


def _forget_marks() -> None:
    for path in MARKS.iterdir():
        path.unlink()


def _wait_for(count: int, pause_s: float = 0.02) -> None:
    give_up_at = time.monotonic() + LIMIT_S
    while sum(each for each, _, _ in _marks()) < count:
        assert time.monotonic() < give_up_at, f"{list(_marks())} of {count} after {LIMIT_S} s"
        assert all(each.poll() is None for each in _workers), "a worker has ended"
        time.sleep(pause_s)


def _usage() -> tuple[float, float]:
    """Return the CPU seconds and the resident MiB of the workers and all their processes."""
    sessions = {each.pid for each in _workers}
    cpu_s = rss_mib = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(fields[3]) in sessions:
            cpu_s += (int(fields[11]) + int(fields[12])) / TICKS
            rss_mib += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return cpu_s, rss_mib
