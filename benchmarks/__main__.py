"""All the benchmarks of speed, one after another; `--quick` for a first look.

`uv run --group bench python -m benchmarks`
"""

import subprocess
import sys
from typing import Final

SUITE: Final = (
    "enqueue",
    "request",
    "latency",
    "growth",
    "rows",
    "handler",
    "worker",
    "peers",
    "coldstart",
    "memory",
    "cost",
)


def main() -> None:
    for name in SUITE:
        print(f"\n=== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
