"""Who begins at once, and whether the time will do: by places and by what earlier runs took."""

import time
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.lifecycle import TABLE_TERMS, Claim
from lambda_tasks.core.limits import Needs, Places
from lambda_tasks.core.message import Message
from lambda_tasks.entrypoints.worker import BatchSize
from lambda_tasks.execution.batch import ClaimedBatch
from lambda_tasks.execution.time_budget import TimeBudget
from lambda_tasks.execution.turns import Durations, Turns
from lambda_tasks.ports import RETURNED, ClaimedDelivery, Delivery, ResolvedDelivery
from tests.app import tasks, turns

SYNC, ASYNC, ONCE = tasks.add, tasks.aadd, turns.take_once


def resolved(
    task: Any, order_key: str | None = None, *, of_table: bool = False
) -> ResolvedDelivery:
    id = uuid4()
    message = Message(task_name=task.name, kwargs={}, invocation_id=id)
    delivery = Delivery(
        id=str(id),
        source="q",
        fallback_id=id,
        order_key=order_key,
        message=message if of_table else None,
    )
    return ResolvedDelivery(delivery=delivery, message=message, task=task)


def in_slots(turns: Turns, *running: ResolvedDelivery) -> None:
    turns.enter(running)
    for each in running:
        turns.begin(each)


def places(deliveries: list[ResolvedDelivery], waiting: set[UUID]) -> list[int]:
    return [place for place, each in enumerate(deliveries) if each.message.invocation_id in waiting]


def turns_of(durations: Durations) -> Turns:
    return Turns(durations, lanes=3, processes=2)


def test_of_unknown_tasks_those_with_a_free_place_begin_at_once() -> None:
    batch = [resolved(task) for task in (SYNC, ASYNC) * 5]

    waiting = turns_of(Durations()).waiting_ids(batch)

    assert places(batch, waiting) == [4, 6, 7, 8, 9], "two processes, three lanes"


def test_who_waits_behind_short_runs_begins_as_good_as_at_once() -> None:
    durations = Durations()
    for _ in range(5):
        durations.add(SYNC.name, 0.001)
        durations.add(ONCE.name, 0.001)
    batch = [resolved(SYNC) for _ in range(10)]
    last = [resolved(ONCE)]

    waiting = turns_of(durations).waiting_ids(batch + last)

    assert places(batch + last, waiting) == [10], "what may not run twice is counted when it begins"


def test_what_is_in_work_has_its_place_until_it_leaves() -> None:
    here = turns_of(Durations())
    first, second = resolved(SYNC), resolved(SYNC)
    here.enter([first, second])
    here.begin(first)
    batch = [resolved(SYNC)]

    assert places(batch, here.waiting_ids(batch)) == [0]
    here.leave(first)
    assert places(batch, here.waiting_ids(batch)) == []


def test_what_would_wait_here_stays_in_the_table() -> None:
    in_table = [resolved(task, of_table=True) for task in (SYNC, SYNC, SYNC, ASYNC)]
    delivered = resolved(SYNC)

    soon, staying = turns_of(Durations()).starting_soon([*in_table, delivered])

    assert soon == [in_table[0], in_table[1], in_table[3], delivered], "SQS has delivered the last"
    assert staying == [in_table[2]]


def test_as_much_of_the_table_is_claimed_as_starts_soon() -> None:
    durations = Durations()
    durations.add(SYNC.name, 0.01)
    in_table = [resolved(SYNC, of_table=True) for _ in range(100)]

    soon, staying = turns_of(durations).starting_soon(in_table)

    assert len(soon) == pytest.approx(2 * 0.1 / 0.01, abs=2), "two processes, a tenth of a second"
    assert [*soon, *staying] == in_table


def test_a_run_that_takes_longer_than_others_takes_a_place_and_no_more() -> None:
    durations = Durations()
    durations.add(SYNC.name, 0.0)
    here = turns_of(durations)
    long = resolved(SYNC)
    in_slots(here, long)
    here._running[False][id(long.delivery)] = SYNC.name, time.monotonic() - 60
    in_table = [resolved(SYNC, of_table=True) for _ in range(5)]

    assert here.starting_soon(in_table) == (in_table, ()), "in the other process"

    second = resolved(SYNC)
    in_slots(here, second)
    here._running[False][id(second.delivery)] = SYNC.name, time.monotonic() - 60
    assert here.starting_soon(in_table) == ([], in_table)
    assert here.wait_s([False]) == pytest.approx(60, abs=30)
    assert here.wait_s([False, True]) == 0


def test_a_slot_is_occupied_once_its_run_has_begun() -> None:
    here = turns_of(Durations())
    first, second, third = (resolved(SYNC) for _ in range(3))
    here.enter([first, second, third])

    here.begin(first)
    assert not here.is_occupied(SYNC), "a process may be starting"
    here.begin(second)
    assert here.is_occupied(SYNC)
    assert not here.is_occupied(ASYNC)
    here.leave(first)
    assert not here.is_occupied(SYNC)


def test_in_a_group_each_waits_for_the_one_before_it() -> None:
    batch = [resolved(ASYNC, "a"), resolved(ASYNC, "a"), resolved(ASYNC, "b")]

    assert places(batch, turns_of(Durations()).waiting_ids(batch)) == [1]


def test_one_slow_run_of_ten_makes_nobody_wait_and_is_reckoned_with() -> None:
    durations = Durations()
    for seconds in [0.001] * 9 + [4.0]:
        durations.add(SYNC.name, seconds)

    assert durations.typical_s(SYNC.name) == 0.001
    assert durations.likely_s(SYNC.name) == 6.0
    for _ in range(10):
        durations.add(SYNC.name, 0.002)
    assert durations.likely_s(SYNC.name) == 0.003, "of the last ten"


def budget_of(whole_s: float, *, passed_s: float = 0.0) -> TimeBudget:
    now = time.monotonic()
    return TimeBudget(now - passed_s, now - passed_s + whole_s)


@pytest.mark.parametrize(
    ("likely_s", "is_first", "passed_s", "has_time_for"),
    [
        (None, False, 0, True),
        (None, False, 40, True),
        (None, False, 60, False),
        (10, False, 80, True),
        (10, False, 95, False),
        (200, False, 0, False),
        (200, True, 0, True),
        (200, True, 60, False),
    ],
)
def test_a_task_begins_if_the_time_will_probably_do(
    likely_s: float | None, is_first: bool, passed_s: float, has_time_for: bool
) -> None:
    budget = budget_of(101, passed_s=passed_s)

    assert budget.has_time_for(likely_s, is_first=is_first) is has_time_for


@given(st.none() | st.floats(0, 1e6), st.booleans())
def test_without_a_deadline_there_is_always_time(likely_s: float | None, is_first: bool) -> None:
    assert TimeBudget(time.monotonic()).has_time_for(likely_s, is_first=is_first)


@pytest.mark.parametrize(("whole_s", "longest_s"), [(100, 99), (4, 3), (2.4, 1.8)])
def test_in_a_short_event_the_last_second_is_shorter(whole_s: float, longest_s: float) -> None:
    assert budget_of(whole_s).longest_s == pytest.approx(longest_s)


def test_a_run_is_alone_until_another_waits_or_is_in_a_slot() -> None:
    first, second, third = resolved(SYNC), resolved(ASYNC), resolved(SYNC)
    here = turns_of(Durations())

    here.enter([first])
    assert here.is_alone
    here.begin(first)
    assert here.is_alone

    here.enter([second])
    assert not here.is_alone, "it waits"
    here.begin(second)
    assert not here.is_alone, "it runs"

    here.leave(first)
    assert here.is_alone
    in_slots(here, third)
    assert not here.is_alone


def claimed_batch(n_claimed: int, *, n_staying: int = 0) -> ClaimedBatch:
    staying = [resolved(SYNC, of_table=True) for _ in range(n_staying)]
    return ClaimedBatch(
        refused={str(number): RETURNED for number in range(n_claimed)}, staying=staying
    )


def test_a_worker_asks_for_twice_as_much_until_some_of_it_has_to_stay_in_the_table() -> None:
    size = BatchSize(160)
    limits = [size.limit]
    for n_claimed, n_staying in [(10, 0), (20, 0), (40, 0), (50, 30), (50, 0), (75, 0), (9, 0)]:
        size.note(size.limit, claimed_batch(n_claimed, n_staying=n_staying))
        limits.append(size.limit)

    assert limits == [10, 20, 40, 80, 50, 75, 113, 113]


def test_a_worker_asks_for_few_as_soon_as_what_it_holds_has_to_wait() -> None:
    size = BatchSize(40)
    limits = [size.limit]
    for n_claimed, has_to_wait in [
        (10, True), (10, False), (20, False), (40, True), (10, True), (10, False)
    ]:  # fmt: skip
        size.note(size.limit, claimed_batch(n_claimed), has_to_wait=has_to_wait)
        limits.append(size.limit)

    assert limits == [10, 10, 20, 40, 10, 10, 15]


def test_a_delivery_with_another_claim_keeps_all_else() -> None:
    waiting = resolved(ASYNC)
    first, second = (Claim(waiting.message.invocation_id, uuid4(), number) for number in (1, 2))
    claimed = ClaimedDelivery(
        delivery=waiting.delivery,
        message=waiting.message,
        task=waiting.task,
        look=TABLE_TERMS,
        needs_of=lambda message: Needs(),
        places=Places("key", 3),
        claim=first,
        carries_call=True,
    )

    assert claimed.with_claim(second) == replace(claimed, claim=second)
