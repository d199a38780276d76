"""Where a function or a worker of the benchmarks' project starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import benchmarks


@contextmanager
def project_directory() -> Iterator[Path]:
    """The benchmarks' project without the lambda_tasks beside it, which would hide the peer's."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "benchmarks").symlink_to(Path(benchmarks.__file__).parent)
        yield directory
