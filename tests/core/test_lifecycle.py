"""The life of a record: what a claim finds, what an end is called, when a delivery comes back."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any, Final, get_args
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_tasks.core.lifecycle import (
    ACTIVE,
    MAX_TRACEBACK_CHARS,
    STATUS_OF,
    Cancelled,
    Claim,
    Outcome,
    Raised,
    RecordState,
    Refusal,
    Refused,
    Status,
    judge_claim,
    outage_wait_s,
    visibility_timeout_s,
)
from lambda_tasks.core.limits import Places
from lambda_tasks.errors import Retry

HOUR: Final = 3600.0
MAX_ATTEMPTS: Final = 3
GRANTED: Final = "granted"
ANY: Final = "any"

OWNERS: Final = {"ours": True, "another's": False}
DUES: Final = {"now": -1.0, "later": HOUR, "12 h": 12 * HOUR, "beyond 12 h": 12 * HOUR + 1}
LEASES: Final = {"running": 60.0, "ends now": 0.0, "over": -60.0}
ATTEMPTS: Final = {"below": MAX_ATTEMPTS - 1, "at limit": MAX_ATTEMPTS, "above": MAX_ATTEMPTS + 1}
RERUNS: Final = {"rerun": True, "fail": False}
BEGUNS: Final = {"begun": True, "waited": False}
COLUMNS: Final = ([str(each) for each in Status], OWNERS, DUES, LEASES, ATTEMPTS, RERUNS, BEGUNS)

# The first line that fits decides. `due` and `lease` are read as seconds from now; `on_lost` is
# the task's own option; a run has `begun`, or only waited for its turn. The verdict is a Refusal,
# and the seconds after which it is worth a try.
TRUTH_TABLE: Final = """
status     token      due          lease     attempts  on_lost  begun   verdict     after
CANCELLED  any        any          any       any       any      any     CANCELLED   0
SUCCESS    any        any          any       any       any      any     FINISHED    0
FAILED     any        any          any       any       any      any     FINISHED    0
RETRYING   any        any          any       any       any      any     FINISHED    0
WAITING    any        any          any       any       any      any     PARKED      0
QUEUED     ours       any          any       any       any      any     granted     -
RUNNING    ours       any          any       any       any      any     granted     -
QUEUED     another's  now          any       below     any      any     HELD        5
QUEUED     another's  later        any       below     any      any     NOT_DUE     due
QUEUED     another's  12 h         any       below     any      any     NOT_DUE     due
QUEUED     another's  beyond 12 h  any       below     any      any     PARKED      due
QUEUED     another's  any          any       at limit  any      any     EXHAUSTED   0
QUEUED     another's  any          any       above     any      any     EXHAUSTED   0
RUNNING    another's  any          running   any       any      any     HELD        lease
RUNNING    another's  any          ends now  any       any      any     HELD        0
RUNNING    another's  any          over      below     rerun    any     HELD        5
RUNNING    another's  any          over      below     fail     waited  HELD        5
RUNNING    another's  any          over      any       fail     any     EXHAUSTED   0
RUNNING    another's  any          over      at limit  any      any     EXHAUSTED   0
RUNNING    another's  any          over      above     any      any     EXHAUSTED   0
"""


def _lines() -> list[tuple[str, ...]]:
    """The lines of the table, cut where its header's words begin."""
    header, *lines = TRUTH_TABLE.strip().splitlines()
    starts = [header.index(word) for word in header.split()]
    ends: list[int | None] = [*starts[1:], None]
    cuts = list(zip(starts, ends, strict=True))
    return [tuple(line[start:end].strip() for start, end in cuts) for line in lines]


LINES: Final = _lines()


def _fits(line: tuple[str, ...], case: tuple[str, ...]) -> bool:
    return all(wanted in (ANY, given) for wanted, given in zip(line, case, strict=False))


def _state(case: tuple[str, ...]) -> RecordState:
    status, owner, due, lease, attempts, _, begun = case
    return RecordState(
        status=Status(status),
        n_attempts=ATTEMPTS[attempts],
        is_ours=OWNERS[owner],
        due_in_s=DUES[due],
        lease_left_s=LEASES[lease],
        has_started=BEGUNS[begun],
    )


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_a_claim_finds_what_the_table_says(line: tuple[str, ...]) -> None:
    *_, verdict, after = line
    cases = [case for case in product(*COLUMNS) if _first_fit(case) == line]

    assert cases, "a line that nothing reaches says nothing"
    for case in cases:
        found = _state(case)
        judged = judge_claim(found, may_rerun=RERUNS[case[-2]], max_attempts=MAX_ATTEMPTS)
        if verdict == GRANTED:
            assert judged is None, case
            continue
        read_s = {"due": found.due_in_s, "lease": found.lease_left_s}
        after_s = read_s[after] if after in read_s else float(after)
        assert judged == Refused(Refusal[verdict], after_s), case


def _first_fit(case: tuple[str, ...]) -> tuple[str, ...]:
    return next(line for line in LINES if _fits(line, case))


def test_the_table_has_a_line_for_every_case() -> None:
    missed = [case for case in product(*COLUMNS) if not any(_fits(line, case) for line in LINES)]

    assert missed == []


@pytest.mark.parametrize("may_rerun", [True, False])
def test_a_durable_message_without_its_record_is_unknown(may_rerun: bool) -> None:
    judged = judge_claim(None, may_rerun=may_rerun, max_attempts=MAX_ATTEMPTS)

    assert judged == Refused(Refusal.UNKNOWN)


seconds = st.floats(-1e9, 1e9)
states = st.builds(
    RecordState,
    status=st.sampled_from(Status),
    n_attempts=st.integers(0, 10),
    is_ours=st.booleans(),
    due_in_s=seconds,
    lease_left_s=seconds,
)


@given(st.none() | states, st.booleans(), st.integers(0, 10))
def test_whatever_a_claim_finds_its_verdict_makes_sense(
    found: RecordState | None, may_rerun: bool, max_attempts: int
) -> None:
    refused = judge_claim(found, may_rerun=may_rerun, max_attempts=max_attempts)

    is_active = found is not None and found.status in ACTIVE
    is_granted = found is not None and is_active and found.is_ours
    assert (refused is None) == is_granted
    if refused is None:
        return
    assert (refused.refusal is Refusal.UNKNOWN) == (found is None)
    by_end = (Refusal.CANCELLED, Refusal.FINISHED)
    assert (refused.refusal in by_end) == (found is not None and found.status.is_finished)
    is_parked = refused.refusal is Refusal.PARKED
    if found is not None and found.status is Status.WAITING:
        assert is_parked
        return
    assert is_parked == (refused.retry_after_s > 12 * HOUR and refused.refusal is not Refusal.HELD)
    assert not refused.is_final or is_parked or refused.retry_after_s == 0
    assert refused.refusal is not Refusal.HELD or refused.retry_after_s >= 0
    if found is not None and refused.refusal is Refusal.EXHAUSTED:
        assert found.n_attempts >= max_attempts or not may_rerun
        assert found.status is Status.QUEUED or found.lease_left_s < 0, "a live run is not failed"


@pytest.mark.parametrize("refusal", Refusal)
def test_a_delivery_is_done_with_where_nothing_will_come_of_it(refusal: Refusal) -> None:
    done_with = {Refusal.FINISHED, Refusal.CANCELLED, Refusal.PARKED, Refusal.FULL, Refusal.EXPIRED}

    assert Refused(refusal).is_final == (refusal in done_with)


def test_every_end_has_a_status_and_every_finished_status_an_end() -> None:
    assert set(STATUS_OF) == {*get_args(Outcome), Cancelled}
    assert set(STATUS_OF.values()) == {each for each in Status if each.is_finished}


def test_what_waits_is_queued_or_runs_is_unfinished_and_nothing_else() -> None:
    unfinished = [each for each in Status if not each.is_finished]

    assert unfinished == [Status.WAITING, Status.QUEUED, Status.RUNNING]


def test_what_was_raised_is_named_by_its_dotted_path() -> None:
    class Inner(Exception):
        pass

    of_a_function = "test_what_was_raised_is_named_by_its_dotted_path.<locals>.Inner"
    assert Raised.from_error(Retry(), "text") == Raised("lambda_tasks.errors.Retry", "text")
    assert Raised.from_error(KeyError(), "text") == Raised("builtins.KeyError", "text")
    assert Raised.from_error(Inner(), "text") == Raised(f"{__name__}.{of_a_function}", "text")


def test_a_claim_has_no_state_and_no_workers_before_it_is_told_any() -> None:
    claim = Claim(UUID(int=1), UUID(int=2), 1)

    untold: tuple[Any, ...] = (claim.state, claim.enqueued_at, claim.started_at, claim.worker_ids)
    assert untold == (None, None, None, ())


@given(st.floats(-10, 43_200))
def test_what_is_put_back_comes_not_too_early_and_a_second_too_late_at_most(
    wait_s: float,
) -> None:
    assert max(wait_s, 0) <= visibility_timeout_s(wait_s) <= max(wait_s, 0) + 1


def test_an_outage_does_not_use_up_the_receives_of_what_no_copy_can_stand_in_for() -> None:
    waits = [outage_wait_s(receives, is_copied=False) for receives in range(1, 5)]

    assert waits == sorted(waits)
    assert waits[0] >= 30
    assert sum(waits) > 20 * 60


@given(st.integers(1, 1000))
def test_what_a_copy_can_stand_in_for_runs_soon_after_an_outage(receives: int) -> None:
    assert 30 <= outage_wait_s(receives, is_copied=True) <= 60


def test_nothing_is_put_back_for_longer_than_sqs_can() -> None:
    assert visibility_timeout_s(1e9) == 12 * 3600


def test_a_very_long_traceback_is_cut_in_its_middle() -> None:
    shortest, longest = "x" * MAX_TRACEBACK_CHARS, "first" + "x" * 10 * MAX_TRACEBACK_CHARS + "last"

    assert Raised.from_error(KeyError(), shortest).traceback == shortest
    cut = Raised.from_error(KeyError(), longest).traceback
    assert (cut[:5], cut[-4:]) == ("first", "last")
    assert len(cut) < MAX_TRACEBACK_CHARS + 100
    assert f"{len(longest) - MAX_TRACEBACK_CHARS} characters are left out" in cut


def test_a_claim_that_has_begun_keeps_all_else() -> None:
    claim = Claim(
        UUID(int=1),
        UUID(int=2),
        attempt=3,
        state={"page": 2},
        enqueued_at=datetime(2026, 1, 1, tzinfo=UTC),
        worker_ids=("first",),
        has_started=False,
        n_waits=4,
        cut_off_s=5.0,
        places=Places("key", 6),
    )
    now = datetime(2026, 1, 2, tzinfo=UTC)

    assert claim.begun(now, ["second"]) == replace(
        claim, started_at=now, worker_ids=("first", "second"), has_started=True
    )
