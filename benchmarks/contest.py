"""Runs contestants, each in a process of its own, and takes medians of interleaved runs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, Final, Self, TypeVar

import psutil

K = TypeVar("K")

HERE: Final = Path(__file__).parents[1]
"""This checkout."""

AWS: Final = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class ContestantEnded(SystemExit):
    """Its process has ended where it was to answer."""


class Contestant:
    """One module of `contestants`, in a process that lives as long as the context.

    What it prints goes to the end of the file `log`, or to where this process's errors go. It runs
    from `checkout`, which may be an earlier one of this library.
    """

    def __init__(
        self,
        module: str,
        python: Path,
        environment: Mapping[str, str],
        *,
        log: Path | None = None,
        checkout: Path = HERE,
    ) -> None:
        run = checkout / "benchmarks" / "contestants" / "__main__.py"
        self._command = [str(python), str(run), module]
        # The fork server looks into its working directory first.
        self._directory = None if checkout == HERE else checkout
        self._log = log
        self._environment = {**os.environ, **AWS, **environment}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        with nullcontext() if self._log is None else self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process is not None
        self._process.communicate()

    def ask(self, do: str, **parameters: Any) -> Any:
        """Let it perform one of its functions; return what that returned."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **parameters}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ContestantEnded(f"{' '.join(self._command)} ended at {do!r}; see above.")
        return json.loads(answer)

    def kill(self) -> None:
        """SIGKILL, in whatever it does; who asked it hears of it."""
        assert self._process is not None
        self._process.kill()

    def memory_mib(self) -> float:
        """Its memory and that of its children; pages that they share count once."""
        process, children = self.family()
        return float(sum(each.memory_full_info().pss for each in (process, *children))) / 2**20

    def family(self) -> tuple[psutil.Process, list[psutil.Process]]:
        """Its process, and the children that live."""
        assert self._process is not None
        process = psutil.Process(self._process.pid)
        return process, process.children(recursive=True)

    def versions(self, *distributions: str) -> dict[str, str | None]:
        """What its environment has installed."""
        versions: dict[str, str | None] = self.ask("versions", of=distributions)
        return versions


def aws(client_options: Mapping[str, Any]) -> dict[str, str]:
    """The environment of a contestant of a LocalSqs with these options: it answers nobody else."""
    return AWS | {
        "AWS_ENDPOINT_URL": client_options["endpoint_url"],
        "AWS_ACCESS_KEY_ID": client_options["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": client_options["aws_secret_access_key"],
    }


def database(options: Mapping[str, Any]) -> dict[str, str]:
    """The environment of a contestant that makes its settings itself."""
    return {"BENCHMARK_DATABASE": json.dumps(options)}


def django(
    database: Mapping[str, Any], *, durable: bool = False, waits: bool = False
) -> dict[str, str]:
    """The environment of a contestant that is a Django project.

    With `waits` a durable call returns when SQS has accepted it.
    """
    environment = {
        "BENCHMARK_DATABASE": json.dumps(database),
        "DJANGO_SETTINGS_MODULE": "benchmarks.contestants.settings",
    }
    if waits:
        environment["BENCHMARK_WAITS"] = "yes"
    return environment | ({"BENCHMARK_DURABLE": "yes"} if durable else {})


def take_turns(
    entries: Sequence[K], runs: int, measure: Callable[[K], float]
) -> dict[K, list[float]]:
    """One measure of each entry per run, so that what the machine does meanwhile hits them all.

    Every other run goes backwards, lest one of them always comes after the same other.
    """
    results: dict[K, list[float]] = {entry: [] for entry in entries}
    for run in range(runs):
        print(f"  run {run + 1} of {runs}", file=sys.stderr)
        for entry in entries[:: 1 if run % 2 == 0 else -1]:
            results[entry].append(measure(entry))
    return results


def ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the ratios of runs that stood side by side."""
    return median(this / that for this, that in zip(these, those, strict=True))
