"""Milliseconds until SQS has accepted a lone message, what of it is the dispatcher's, and the CPU
time of a request.

Run `uv run --group bench python -m benchmarks.latency --quick` for a first look.
"""

import argparse
from collections.abc import Mapping, Sequence
from statistics import median, quantiles
from typing import Final

from benchmarks import contest, environments, options, report
from benchmarks.contest import Contestant, ratio
from benchmarks.enqueue import IN_MEMORY
from benchmarks.fast_sqs import FastSqs

TITLE: Final = "One message, one request"

Measured = Mapping[str, Sequence[float]]


def table(measured: Measured) -> str:
    rows = [
        [form, f"{median(seconds) * 1000:.2f}", f"{quantiles(seconds, n=20)[-1] * 1000:.2f}"]
        for form, seconds in measured.items()
    ]
    return report.table(["Way", "ms, median", "ms, 95 of 100"], rows)


def added_ms(measured: Measured) -> float:
    """By the dispatcher: the median of the differences of messages that stood side by side."""
    pairs = zip(measured["dispatcher"], measured["transport alone"], strict=True)
    return 1000 * median(through - alone for through, alone in pairs)


def requests_table(measured: Measured) -> str:
    plain = measured["aiobotocore"]
    rows = [
        [form, f"{median(seconds) * 1e6:,.0f}", f"{ratio(seconds, plain):.2f}"]
        for form, seconds in measured.items()
    ]
    return report.table(["SendMessageBatch of ten", "µs of CPU", "Times aiobotocore"], rows)


def main() -> None:
    chosen = _options()
    with FastSqs() as sqs:
        environment = contest.django(IN_MEMORY) | {
            "AWS_ENDPOINT_URL": sqs.url,
            "BENCHMARK_QUEUE_URL": sqs.queue_url,
        }
        with Contestant("enqueue_lone", environments.here(), environment) as contestant:
            versions = contestant.versions("lambda-tasks", "aiobotocore", "botocore")
            measured: Measured = contestant.ask("measure", messages=chosen.messages)
        with Contestant("enqueue_requests", environments.here(), environment) as contestant:
            requests = contestant.ask("measure", requests=chosen.messages // 2, runs=chosen.runs)
    text = (
        f"{report.conditions(versions)} {chosen.messages:,} messages each, in turns.\n\n"
        f"{table(measured)}\n\nThe dispatcher adds {added_ms(measured):.2f} ms.\n\n"
        f"{requests_table(requests)}\n\n"
        f"Medians of {chosen.runs} interleaved runs, sixteen at a time."
    )
    print(text)
    report.write_section(chosen.output, TITLE, text)


def _options() -> argparse.Namespace:
    parser = options.parser(__doc__, messages=2000)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.messages = min(chosen.messages, 300)
    return chosen


if __name__ == "__main__":
    main()
