"""A process and all that it has started, which the kernel can stop, let go on, and end."""

import os
import signal
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


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """In the body neither the process nor what it has started runs, as in a host that sleeps."""
    stopped = family(pid)
    _signal(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(stopped, signal.SIGCONT)


def kill_family(pid: int) -> None:
    """SIGKILL for all of them; no word to who waits for the process."""
    _signal(family(pid), signal.SIGKILL)


def _signal(processes: Sequence[Any], number: signal.Signals) -> None:
    import psutil

    for each in processes:
        with suppress(psutil.NoSuchProcess):  # whose number may be another's by now
            each.send_signal(number)


def kill(pid: int) -> None:
    """SIGKILL for the process alone, as from the kernel's want of memory."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
