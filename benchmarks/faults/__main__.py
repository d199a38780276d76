"""What is lost, what happens twice and what stays open under faults of every kind: processes that
are killed, terminated or frozen, ways to the database and to SQS that are held, slow or cut, and
what strangers do to a database.

Run `uv run --group bench python -m benchmarks.faults --quick` for a first look. Exits with 1 where
anything of lambda_tasks is not as it is promised.
"""

import argparse
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks import environments, options, report
from benchmarks.faults import comparison, tables, trial
from benchmarks.faults.comparison import OURS, PEER
from benchmarks.faults.kinds import BY_NAME
from benchmarks.faults.site import CONSUMERS, ENGINES, HURRY, Consumer, Engine, open_site
from benchmarks.faults.trial import Verdict

TRIALS: Final = "Faults of every kind"
COMPARISON: Final = "Faults"

FAULT_EVERY_S: Final = (1.5, 3.5)

QUICK_ORDERS: Final = 500
QUICK_FAULTS: Final = 20


def main() -> None:
    chosen = _options()
    logging.getLogger("lambda_tasks").setLevel(logging.CRITICAL)  # the kills are no news
    said = f"--orders {chosen.orders} --faults {chosen.faults} --seed {chosen.seed}"
    said += f" --kinds {' '.join(chosen.kinds)}" if chosen.kinds else ""
    said += f" --only {' '.join(map(repr, chosen.only))}" if chosen.only else ""
    said += " --strikes" if chosen.strikes else ""
    said += "" if chosen.hurry == HURRY else f" --hurry {chosen.hurry:g}"
    verdicts = {
        (consumer, engine): _try(consumer, engine, chosen)
        for engine in chosen.database
        for consumer in chosen.consumer
    }
    _report(chosen.output, TRIALS, tables.of_trials(verdicts, options=said))
    if not chosen.no_peer:
        random.seed(chosen.seed)
        pythons = {OURS: environments.here(), PEER: environments.django_lambda_tasks()}
        outcomes = {
            library: comparison.run(library, python, orders=chosen.orders, kills=chosen.faults)
            for library, python in pythons.items()
        }
        _report(chosen.output, COMPARISON, tables.of_comparison(outcomes, options=said))
    if not all(verdict.is_clean for verdict in verdicts.values()):
        sys.exit(1)


def _try(consumer: Consumer, engine: Engine, chosen: argparse.Namespace) -> Verdict:
    report.say(f"{consumer}, {engine}, seed {chosen.seed}")
    directory = Path(tempfile.mkdtemp(prefix="lambda_tasks_faults_"))
    with open_site(engine, directory, hurry=chosen.hurry, strikes=chosen.strikes) as site:
        verdict = trial.run(
            site,
            consumer,
            orders=chosen.orders,
            faults=chosen.faults,
            every_s=FAULT_EVERY_S,
            seed=chosen.seed,
            kinds=chosen.kinds,
            only=chosen.only,
        )
    if verdict.is_clean:
        shutil.rmtree(directory)
    else:
        report.say(f"{verdict.shown()}\n  Logs and logbook are in {directory}.")
    return verdict


def _report(directory: Path, title: str, text: str) -> None:
    print(f"\n{text}")
    report.write_section(directory, title, text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=10_000, help="tasks of each run")
    parser.add_argument(
        "--faults", "--kills", type=int, default=300, help="that happen meanwhile, in each run"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults")
    parser.add_argument("--consumer", nargs="+", choices=CONSUMERS, default=list(CONSUMERS))
    parser.add_argument("--database", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument(
        "--hurry", type=float, default=HURRY, help="so many times as fast SQS's timeouts run"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        metavar="KIND",
        help="of orders, such as chain, fan and fulfil",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(BY_NAME),
        metavar="FAULT",
        help="such as 'consumer killed'",
    )
    parser.add_argument(
        "--strikes",
        action="store_true",
        help="durable functions kill their processes",
    )
    parser.add_argument(
        "--no-peer", action="store_true", help="without the kills beside django-lambda-tasks"
    )
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument(
        "--output", type=Path, default=options.RESULTS, metavar="DIR", help="of the tables"
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.orders = min(chosen.orders, QUICK_ORDERS)
        chosen.faults = min(chosen.faults, QUICK_FAULTS)
    return chosen


if __name__ == "__main__":
    main()
