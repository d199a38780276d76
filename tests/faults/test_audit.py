"""The audit of the fault harness finds what it is to find: its silence is what others rely on."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contestants.work.logbook import BEGUN
from benchmarks.faults.site import MAX_RECEIVES, Site, open_site

ORDERS = 5
LEASE_S = 60.0
LATE_S = 100.0  # LEFT_S of the shop, which is longer


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site("postgresql", tmp_path_factory.mktemp("audit")) as site:
        yield site


@pytest.fixture
def site(opened: Site) -> Site:
    """With orders that nobody works on, numbered from 0: each has a record, and a message."""
    _execute(opened, "TRUNCATE work_order, work_shipment, lambda_tasks_taskrecord")
    _logbook(opened).write_text("")
    options = {"pause_s": 0, "queues": ["default"], "seed": 1, "kinds": ["asend"]}
    opened.web().take_orders(ORDERS, **options, longest_delay_s=1)
    return opened


def _execute(site: Site, statement: str, *parameters: Any) -> list[Any]:
    with closing(site.database.connect("shop")) as connection:
        cursor = connection.cursor()
        cursor.execute(statement, parameters)
        return list(cursor.fetchall()) if cursor.description else []


def _logbook(site: Site) -> Path:
    return site.directory / "logbook"


def _begin(site: Site, number: int, *, after_s: float) -> None:
    ((due_at,),) = _execute(site, "SELECT due_at FROM work_order WHERE number = %s", number)
    entry = {"number": number, "what": BEGUN, "at": due_at + after_s}
    with _logbook(site).open("a") as log:
        log.write(json.dumps(entry) + "\n")


def _ship(site: Site, *numbers: int, parcel: int = 0) -> None:
    for number in numbers:
        _execute(site, "INSERT INTO work_shipment (number, parcel) VALUES (%s, %s)", number, parcel)


def _id(site: Site, number: int) -> str:
    ((id,),) = _execute(
        site, "SELECT id FROM lambda_tasks_taskrecord WHERE kwargs->>'number' = %s", str(number)
    )
    return str(id)


def _counts(site: Site, **options: Any) -> dict[str, int]:
    """What was found, by its name, without what was not."""
    asked = {"lease_s": LEASE_S, "lapsed": {}, "max_receives": MAX_RECEIVES, "dead_letters": []}
    found = site.bookkeeper.ask("audit", **asked | options)
    return {name: each["count"] for name, each in found.items() if each["count"]}


def _end_all(site: Site, status: str = "SUCCESS") -> None:
    _execute(site, "UPDATE lambda_tasks_taskrecord SET status = %s", status)


def test_orders_without_an_effect_are_lost_and_records_without_an_end_stuck(site: Site) -> None:
    assert _counts(site) == {"lost": ORDERS, "stuck": ORDERS}


def test_nothing_is_found_where_all_is_well(site: Site) -> None:
    _ship(site, *range(ORDERS))
    _end_all(site)

    assert _counts(site) == {}


def test_two_effects_of_one_order_are_one_too_many(site: Site) -> None:
    _ship(site, 0, 0, *range(1, ORDERS))
    _end_all(site)

    assert _counts(site) == {"twice": 1}


def test_a_failure_that_no_task_raised_is_found(site: Site) -> None:
    _ship(site, *range(ORDERS))
    _end_all(site, "FAILED")

    assert _counts(site) == {"failed": ORDERS}


def test_a_failure_of_the_tasks_own_is_none_but_its_effect_is(site: Site) -> None:
    _execute(site, "UPDATE work_order SET kind = 'refuse'")
    own = "benchmarks.contestants.work.mixed.OutOfStock"
    _execute(site, "UPDATE lambda_tasks_taskrecord SET exception_class = %s", own)
    _end_all(site, "FAILED")
    assert _counts(site) == {}

    _ship(site, 0)
    assert _counts(site) == {"twice": 1}


def test_parcels_are_told_apart(site: Site) -> None:
    _execute(site, "UPDATE work_order SET kind = 'send_in_parcels'")
    _end_all(site)
    for parcel in range(3):
        _ship(site, *range(ORDERS), parcel=parcel)
    assert _counts(site) == {}

    _execute(site, "DELETE FROM work_shipment WHERE number = 2 AND parcel = 1")
    assert _counts(site) == {"lost": 1}


def test_an_order_that_was_refused_has_its_parcels_taken_back_in_order(site: Site) -> None:
    refused, others = 3, [number for number in range(ORDERS) if number != 3]
    _execute(site, "UPDATE work_order SET kind = 'fulfil' WHERE number = %s", refused)
    _ship(site, *others)
    for parcel in range(26):
        _ship(site, refused, parcel=parcel)
    _end_all(site)
    assert _counts(site) == {"lost": 1}

    for parcel in (-26, -1, -2):
        _ship(site, refused, parcel=parcel)
    assert _counts(site) == {"disordered": 1}


def test_what_began_too_late_is_told_but_for_those_that_died_with_it(
    site: Site,
) -> None:
    _ship(site, *range(ORDERS))
    _end_all(site)
    _begin(site, 0, after_s=LATE_S - 1)
    _begin(site, 1, after_s=LATE_S + 1)
    _begin(site, 1, after_s=LATE_S + 2)

    assert _counts(site) == {"late": 1}
    assert _counts(site, lapsed={_id(site, 1): 1}) == {}


def test_what_is_among_the_dead_letters_and_never_began_is_found_but_for_deaths_alone(
    site: Site,
) -> None:
    _ship(site, *range(ORDERS))
    _end_all(site)
    _begin(site, 0, after_s=0)
    dead = [json.dumps({"invocation_id": _id(site, number)}) for number in (0, 1)]
    direct = json.dumps({"invocation_id": "none", "kwargs": {"number": 2}})

    assert _counts(site, dead_letters=[*dead, direct]) == {"dead_lettered": 2}
    lapsed = {_id(site, 1): MAX_RECEIVES}
    assert _counts(site, dead_letters=dead, lapsed=lapsed) == {}


def test_orders_of_another_time_are_not_asked_for(site: Site) -> None:
    _ship(site, *range(3, ORDERS))

    assert _counts(site, since=3) == {"stuck": 2}
