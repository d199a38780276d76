"""A process and all that it has started, which can be frozen, and killed."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any


def family(pid: int) -> list[Any]:
    """The process, as psutil has it, and its descendants; nothing where it has ended."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


_THAW = """
import os, signal, sys
os.read(0, 1)
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass
"""
"""Standard input is a pipe from who has frozen them: it closes when that one ends, however it ends,
and nothing stands still for ever."""


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """In the body neither the process nor what it has started runs, as on a host that sleeps."""
    stopped = family(pid)
    command = [sys.executable, "-I", "-S", "-c", _THAW, *(str(each.pid) for each in stopped)]
    with subprocess.Popen(command, stdin=subprocess.PIPE):
        _send(stopped, signal.SIGSTOP)
        yield


def kill_family(pid: int) -> None:
    """SIGKILL for all of them, with no word to who waits for the process."""
    _send(family(pid), signal.SIGKILL)


def _send(processes: Sequence[Any], number: signal.Signals) -> None:
    import psutil

    for each in processes:
        with suppress(psutil.NoSuchProcess):  # psutil knows when its number is another's by now
            each.send_signal(number)
