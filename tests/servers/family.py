"""A process and all that it has started, which can be frozen, and killed."""

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
    """In the body neither the process nor what it has started runs, as on a host that sleeps."""
    stopped = family(pid)
    _send(stopped, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(stopped, signal.SIGCONT)


def kill_family(pid: int) -> None:
    """SIGKILL for all of them, with no word to who waits for the process."""
    _send(family(pid), signal.SIGKILL)


def _send(processes: Sequence[Any], number: signal.Signals) -> None:
    import psutil

    for each in processes:
        with suppress(psutil.NoSuchProcess):  # psutil knows when its number is another's by now
            each.send_signal(number)
