"""Workflows of DBOS whose steps write a row each, on PostgreSQL; and the same rows without DBOS."""

import json
import os
import time
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa
from dbos import DBOS, SQLAlchemyDatasource

_database = json.loads(os.environ["BENCHMARK_DATABASE"])
URL: Final = f"postgresql+psycopg://postgres@/{_database['NAME']}?host={_database['HOST']}"

ISOLATION: Final = "READ COMMITTED"
"""As in Django's transactions."""

SHIPMENTS: Final = sa.Table(
    "shipments",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.Integer, index=True, nullable=False),
    sa.Column("parcel", sa.Integer, nullable=False),
)

engine: Final = sa.create_engine(URL, isolation_level=ISOLATION)
DBOS(config={"name": "benchmark", "system_database_url": URL, "log_level": "ERROR"})
datasource: Final = SQLAlchemyDatasource.create(URL, engine=engine)


@datasource.transaction(isolation_level=ISOLATION)
def ship_in_transaction(number: int) -> int:
    datasource.sql_session().execute(SHIPMENTS.insert().values(number=number, parcel=0))
    return number


@DBOS.step()
def ship_in_step(number: int) -> int:
    return _ship(number)


@DBOS.workflow()
def by_transactions(steps: int) -> None:
    for number in range(steps):
        ship_in_transaction(number)


@DBOS.workflow()
def by_steps(steps: int) -> None:
    for number in range(steps):
        ship_in_step(number)


def bare(steps: int) -> None:
    for number in range(steps):
        _ship(number)


WAYS: Final[dict[str, Callable[[int], None]]] = {
    "transactions": by_transactions,
    "steps": by_steps,
    "bare": bare,
}


def migrate() -> None:
    """Make the tables, and launch DBOS, which makes its own."""
    SHIPMENTS.metadata.create_all(engine)
    DBOS.launch()


def run(*, way: str, steps: int) -> float:
    """Return the seconds of a workflow with so many steps."""
    began = time.perf_counter()
    WAYS[way](steps)
    return time.perf_counter() - began


def close() -> None:
    """End DBOS's threads."""
    DBOS.destroy()


def _ship(number: int) -> int:
    with engine.begin() as connection:
        connection.execute(SHIPMENTS.insert().values(number=number, parcel=0))
    return number
