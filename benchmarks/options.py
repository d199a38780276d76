"""The options that the benchmarks have."""

import argparse
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def parser(
    description: str | None,
    *,
    messages: int,
    latency_ms: list[float] | None = None,
    latency_of: str = "",
) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--runs", type=_positive, default=5, help="interleaved runs per entry")
    options.add_argument(
        "--messages", type=_positive, default=messages, help="messages per run of an entry"
    )
    if latency_ms is not None:
        options.add_argument(
            "--latency-ms", type=float, nargs="+", default=latency_ms, metavar="MS", help=latency_of
        )
    options.add_argument("--quick", action="store_true", help="a look, not a measurement")
    options.add_argument("--output", type=Path, default=RESULTS, metavar="DIR", help="of the files")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
