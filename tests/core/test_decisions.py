"""Batching, retries and options: rules that need nothing but their arguments."""

from collections import deque
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import LockError, RedisError

from lambda_tasks.core.batching import BatchLimits, pop_batch
from lambda_tasks.core.options import parse_options
from lambda_tasks.core.retries import RetryRule, as_retry, continuation_id, retry_id
from lambda_tasks.errors import Continue, Retry

sizes = st.lists(st.integers(1, 30), max_size=60)


@given(sizes, st.integers(1, 12), st.integers(1, 40))
def test_batches_keep_the_order_and_hold_the_limits(
    messages: list[int], max_entries: int, max_bytes: int
) -> None:
    pending, batches = deque(messages), []
    while pending:
        batches.append(pop_batch(pending, BatchLimits(max_entries, max_bytes), size_bytes=int))

    assert [size for batch in batches for size in batch] == messages
    for batch, following in zip(batches, [*batches[1:], []], strict=False):
        assert 1 <= len(batch) <= max_entries
        assert sum(batch) <= max_bytes or len(batch) == 1
        has_room = len(batch) < max_entries and following
        assert not has_room or sum(batch) + following[0] > max_bytes, "a batch left too early"


@given(st.floats(0, 900), st.floats(1, 1000), st.integers(0, 32_767), st.floats(1, 5))
def test_a_retry_comes_after_the_jitter_and_within_what_sqs_can_delay(
    retry_delay: float, backoff: float, n_retries: int, jitter_s: float
) -> None:
    rule = RetryRule(retry_delay=retry_delay, retry_backoff=backoff)

    delay_s = rule.delay_s(ValueError(), n_retries=n_retries, jitter_s=jitter_s)

    assert jitter_s <= delay_s <= 900
    longer = rule.delay_s(ValueError(), n_retries=n_retries + 1, jitter_s=jitter_s)
    assert longer >= delay_s


def test_the_delay_grows_by_the_backoff() -> None:
    rule = RetryRule(retry_delay=10, retry_backoff=3)

    delays = [rule.delay_s(ValueError(), n_retries=n, jitter_s=1) for n in range(5)]

    assert delays == [11, 31, 91, 271, 811]


def test_a_retry_by_hand_names_its_own_delay() -> None:
    rule = RetryRule(retry_delay=10)

    assert rule.retries(Retry())
    assert rule.delay_s(Retry(delay=40), n_retries=0, jitter_s=2) == 42
    assert rule.delay_s(Retry(), n_retries=0, jitter_s=2) == 12
    assert rule.delay_s(Retry(delay=0), n_retries=0, jitter_s=2) == 2


def test_an_exception_group_is_retried_or_ignored_if_each_error_in_it_is() -> None:
    rule = RetryRule(retry_on=(OSError,), ignore_errors=(KeyError,))
    nested = ExceptionGroup("outer", [TimeoutError(), ExceptionGroup("inner", [Retry()])])

    assert rule.retries(nested)
    assert rule.ignores(ExceptionGroup("", [KeyError(), KeyError()]))
    for mixed in (OSError(), KeyError()), (OSError(), ValueError()), (KeyError(), ValueError()):
        group = ExceptionGroup("", mixed)
        assert not rule.retries(group)
        assert not rule.ignores(group)
    assert RetryRule(retry_on=(ExceptionGroup,)).retries(ExceptionGroup("", [ValueError()]))


def test_a_group_of_retries_is_one_with_the_longest_delay() -> None:
    group = ExceptionGroup("", [Retry(delay=5), Retry("the last", delay=40), Retry()])

    retry = as_retry(group)

    assert isinstance(retry, Retry)
    assert (str(retry), retry.delay, retry.__cause__) == ("the last", 40, group)
    for other in Retry(), ExceptionGroup("", [Retry(), ValueError()]):
        assert as_retry(other) is other


def test_a_retrys_id_follows_from_the_first_and_its_claim() -> None:
    first, token, other = UUID(int=1), UUID(int=2), UUID(int=3)

    assert retry_id(first, token) == retry_id(first, token)
    ids = {first, retry_id(first, token), retry_id(first, other), continuation_id(first, token)}
    assert len(ids | {retry_id(retry_id(first, token), token)}) == 5


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"retry_dely": 3}, TypeError, "Did you mean 'retry_delay'"),
        ({"retry_on": (int,)}, TypeError, "int"),
        ({"retry_on": ValueError}, TypeError, "tuple"),
        ({"ignore_errors": ("x",)}, TypeError, "'x'"),
        ({"retry_on": (OSError,), "ignore_errors": (OSError,)}, TypeError, "OSError"),
        ({"retry_delay": 3}, TypeError, "retry_on is empty"),
        ({"retry_on": (OSError,), "retry_delay": 901}, ValueError, "0 to 900"),
        ({"retry_on": (OSError,), "retry_delay": -1}, ValueError, "0 to 900"),
        ({"retry_backoff": 0.5}, ValueError, "retry_backoff"),
        ({"retry_backoff": 2.0, "retry_on": (OSError,)}, TypeError, "Set retry_delay, too"),
        ({"max_retries": -1}, ValueError, "max_retries"),
        ({"singleton": True, "retry_on": (LockError,)}, TypeError, "LockError"),
        ({"singleton": True, "retry_on": (RedisError,)}, TypeError, "RedisError"),
        ({"singleton": True, "retry_on": (Exception,)}, TypeError, "Exception"),
        ({"singleton": True, "singleton_by": ("c",)}, TypeError, "'c'"),
        ({"singleton_by": ("a",)}, TypeError, "without singleton=True"),
        ({"limit": 0}, ValueError, "Use 1 to 1000"),
        ({"limit": "3"}, TypeError, "Use a whole number"),
        ({"limit": 3, "limit_by": ("c",)}, TypeError, "limit_by names 'c'"),
        ({"limit_by": ("a",)}, TypeError, "limit_by is set without limit"),
        ({"rate": "10/x"}, ValueError, 'Use "10/s"'),
        ({"rate": "0/s"}, ValueError, "with 1 or more"),
        ({"rate": "1/s", "rate_by": ("c",)}, TypeError, "rate_by names 'c'"),
        ({"rate_by": ("a",)}, TypeError, "rate_by is set without rate"),
        ({"limit": 2, "singleton": True}, TypeError, "A singleton is a limit of 1"),
        ({"limit": 2, "durable": False}, TypeError, "limit is set with durable=False"),
        ({"rate": "1/s", "durable": False}, TypeError, "rate is set with durable=False"),
        ({"soft_timeout": 0}, ValueError, "soft_timeout"),
        ({"hard_timeout": -1}, ValueError, "hard_timeout"),
        ({"soft_timeout": 5, "hard_timeout": 5}, ValueError, "not less"),
        ({"delay": 901}, ValueError, "delay"),
        ({"delay": -1}, ValueError, "delay"),
        ({"on_lost": "ignore"}, ValueError, "on_lost"),
        ({"queue": ["a"]}, TypeError, r"queue is \['a'\]. Use the name of one queue"),
        ({"queue": ""}, TypeError, "queue is ''"),
        ({"delay": 1.5}, TypeError, "delay is 1.5. Use whole seconds"),
        ({"max_retries": "3"}, TypeError, "max_retries is '3'. Use a whole number"),
        ({"durable": "no"}, TypeError, "durable is 'no'. Use True or False"),
        ({"atomic": None}, TypeError, "atomic is None"),
        ({"singleton": True, "singleton_by": "a"}, TypeError, r"like \('order_id',\)"),
        ({"aliases": "shop.old.f"}, TypeError, "aliases is 'shop.old.f'. Use a tuple"),
        ({"takes_context": 1}, TypeError, "takes_context is 1"),
    ],
)
def test_an_option_that_cant_be_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as refused:
        parse_options("f", options, parameters=["a", "b"])  # type: ignore[arg-type]
    assert "f" in str(refused.value)


def test_only_a_singleton_that_does_not_wait_ignores_a_taken_lock() -> None:
    waits = parse_options("f", {"singleton": True}, parameters=[]).retry_rule
    ignored = parse_options("f", {"singleton": True, "retry_singleton": False}, parameters=[])

    assert not waits.ignores(LockError())
    assert not waits.retries(LockError()), "a lock of the task's own is a failure as any other"
    assert ignored.retry_rule.ignores(LockError())


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "5", True])
def test_a_delay_that_is_none_is_refused_where_it_is_raised(delay: Any) -> None:
    with pytest.raises(ValueError, match=r"delay is .* Use seconds, from 0 up"):
        raise Retry(delay=delay)
    with pytest.raises(ValueError, match=r"delay is .* Use seconds, from 0 up"):
        raise Continue(None, delay=delay)
