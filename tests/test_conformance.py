"""Django's own tests of its tasks framework; see tests.conformance."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.ways import WAYS

SHARE_THAT_APPLIES = {"testing": 0.85, "sqs": 0.7, "worker": 0.75}


@pytest.fixture
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that all processes of the run share."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    (shared / "archives").mkdir(exist_ok=True)
    return shared / "archives"


@pytest.mark.parametrize("way", WAYS)
def test_djangos_own_tests_pass(
    way: str, archives: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.conformance", way, "--archives", str(archives)],
        check=False,
        capture_output=True,
        text=True,
    )

    output = ran.stdout + ran.stderr
    if "No matching distribution found" in output and not os.environ.get("CI"):
        pytest.skip("There is no package index to fetch Django's tests from.")
    with capfd.disabled():
        print(f"\n{output}")
    assert ran.returncode == 0
    ((n_applying, n_tests),) = re.findall(r"^(\d+) of (\d+) tests apply", output, re.MULTILINE)
    assert int(n_tests) >= 70, "all of them were found"
    assert int(n_applying) / int(n_tests) >= SHARE_THAT_APPLIES[way]
