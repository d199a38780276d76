"""The single place that decides how a run ends and writes its end.

An attempt calls it within its transaction. The executor calls it for runs whose attempt is gone.
The ends of runs that have nothing else to commit are written together, by `write_batcher`.
"""

import logging
import math
import random
import traceback
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from ..context import SCHEDULE_HEADER
from ..core.lifecycle import (
    CUT_OFF,
    Claim,
    Continued,
    End,
    Failed,
    Outcome,
    Raised,
    Release,
    Retried,
    Skipped,
    Succeeded,
    cut_off_too_often,
    lost_wait_s,
    turn_wait_s,
)
from ..core.message import CALL_HEADER, UNDO_HEADER, Message, Outgoing
from ..core.redaction import redact
from ..core.results import to_json_values
from ..core.retries import JITTER_S, MAX_DELAY_S, continuation_id, errors_in, retry_id
from ..errors import (
    Continue,
    LeaseLost,
    MaxContinuesExceededError,
    MaxRetriesExceededError,
    RunSkipped,
    Unrunnable,
)
from ..logging import run_attributes
from ..ports import (
    DONE_FAILED,
    RETURNED,
    ClaimedDelivery,
    Claims,
    Released,
    ResolvedDelivery,
    Settlement,
    Task,
    TaskCall,
)
from .hook_events import announce_end, announce_skipped
from .journal import WOKE, Suspension
from .progress import state_as_json
from .run import AttemptEnd, Run
from .run_log import log_failure, log_lost_attempt, skip_library_frames

logger = logging.getLogger("lambda_tasks")

CONTINUE_IN_GROUP: Final = (
    "Continue keeps the writes of its run, and a TaskGroup that it leaves cancels the other tasks. "
    "Raise it in the task itself, after the group."
)


class Finisher:
    """The writer of the ends of runs."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims

    def finish(
        self,
        run: Run,
        outcome: Outcome,
        *,
        ran_for: timedelta | None,
        following: Outgoing | None = None,
        knows_undos: bool = False,
    ) -> Sequence[Released]:
        """Write the outcome of a run, and the QUEUED record of the run that follows it.

        `ran_for` is None if the time of the run is unknown. Returns the steps of its workflow that
        are released now. Raises LeaseLost, and writes nothing, if the claim no longer holds.
        """
        end = end_of(run.message, run.claim, outcome, ran_for, knows_undos=knows_undos)
        return self.claims.finish(end, following)

    def fail(
        self,
        run: Run,
        task: Task,
        call: TaskCall,
        error: BaseException,
        ran_for: timedelta | None,
        *,
        may_retry: bool = True,
        knows_undos: bool = False,
    ) -> AttemptEnd:
        """Record what follows from an error: a failure, a retry, or SUCCESS if it is ignored.

        Call it after the task's transaction. Raises the database's errors; the outcome is unknown
        then, and the delivery must come back.
        """
        if isinstance(error, LeaseLost):
            return AttemptEnd(None)
        outcome, retry = consequence_of(error, run, call, may_retry=may_retry)
        retry = retry or follow_up_of(outcome, run.message, task)
        try:
            released = self.finish(
                run, outcome, ran_for=ran_for, following=retry, knows_undos=knows_undos
            )
        except LeaseLost:
            # This also happens if the commit succeeded, and its answer or a hook failed.
            logger.error(
                "[%s] %s raised an error after its record was finished or claimed by another:\n%s",
                run.message.invocation_id, task.name, describe(error, run.message).traceback,
                extra=run_attributes(run.message, run.claim.attempt, run.queue),
            )  # fmt: skip
            return AttemptEnd(None)
        log_failure(call, run.message, run.claim, outcome, error, queue=run.queue, ran_for=ran_for)
        call.ended(outcome, error)
        return AttemptEnd(outcome, retry, ran_for=ran_for, released=released)

    def skip(self, run: Run, held: BaseException) -> AttemptEnd:
        """End a run that its schedule skips, as another run holds the lock.

        Raises the database's errors; the outcome is unknown then, and the delivery must come back.
        """
        schedule = str(run.message.headers[SCHEDULE_HEADER])
        reason = RunSkipped(), f"The schedule {schedule!r} has skipped this run: {held}"
        outcome = Skipped(Raised.from_error(*reason), schedule)
        try:
            self.finish(run, outcome, ran_for=None)
        except LeaseLost:
            return AttemptEnd(None)
        announce_skipped(run.message, queue=run.queue)
        return AttemptEnd(outcome)

    def finish_lost(self, claimed: ClaimedDelivery, reason: Raised, *, is_last: bool) -> Settlement:
        """End an attempt that an outage of the database ended, by the task's `on_lost`.

        It goes back to run again, or fails; the last attempt fails in any case.
        """
        if claimed.may_rerun and not is_last:
            log_lost_attempt(claimed.message, claimed.claim, claimed.queue, reason)
            announce_end(claimed, None, raised=reason)
            return release_claim(
                self.claims,
                claimed,
                counts=True,
                wait_s=lost_wait_s(claimed.claim.attempt),
                reason="lost its database connection",
            )
        return self._fail_lost(claimed, reason)

    def cut_off(
        self, claimed: ClaimedDelivery, *, counts: bool, ran_s: float, hard_s: float
    ) -> Settlement:
        """End an attempt that is interrupted by shutdown: a deadline or a worker's drain.

        The claim's token becomes void, so that the attempt can't commit. The delivery goes back,
        unless the task must not run again or was interrupted too often; then it fails. `counts`,
        `ran_s` and `hard_s` are as in Release and cut_off_too_often().
        """
        if not claimed.may_rerun:
            return self._fail_lost(claimed, CUT_OFF)
        if reason := cut_off_too_often(claimed.claim.cut_off_s + ran_s, hard_s):
            return self._fail_lost(claimed, reason)
        log_lost_attempt(claimed.message, claimed.claim, claimed.queue, CUT_OFF)
        announce_end(claimed, None, raised=CUT_OFF)
        wait_s = turn_wait_s(claimed.claim.n_waits)
        return release_claim(
            self.claims,
            claimed,
            counts=counts,
            wait_s=wait_s,
            ran_s=ran_s,
            reason="interrupted by shutdown",
        )

    def _fail_lost(self, claimed: ClaimedDelivery, reason: Raised) -> Settlement:
        try:
            end = end_of(claimed.message, claimed.claim, Failed(reason), None)
            self.claims.send_released(self.claims.finish(end))
        except Exception:
            logger.exception(
                "[%s] The end of %s can't be written; it runs again when its lease is over",
                claimed.message.invocation_id, claimed.task.name,
                extra=run_attributes(claimed.message, claimed.claim.attempt, claimed.queue),
            )  # fmt: skip
            announce_end(claimed, None, raised=reason)
            return replace(RETURNED, reason="its end can't be written")
        notify_failed(claimed, claimed.claim, reason)
        announce_end(claimed, Failed(reason))
        return DONE_FAILED


def end_of(
    message: Message,
    claim: Claim,
    outcome: Outcome,
    ran_for: timedelta | None,
    *,
    knows_undos: bool = False,
) -> End:
    """Return the end of a run of this message."""
    return End(
        claim,
        outcome,
        ran_for,
        drops_arguments=message.drops_arguments,
        place=message.place,
        call_id=message.call_id,
        knows_undos=knows_undos,
    )


def notify_failed(resolved: ResolvedDelivery, claim: Claim, reason: Raised) -> None:
    """Log that a task has failed, and notify its listeners, as its attempt could not do so."""
    outcome = Failed(reason)
    try:
        call = resolved.task.make_call(resolved.message, claim)
        log_failure(call, resolved.message, claim, outcome, None, queue=resolved.queue)
        call.ended(outcome, None)
    except Exception:
        logger.exception(
            "[%s] %s has failed, and its listeners could not be notified",
            resolved.message.invocation_id, resolved.task.name,
            extra=run_attributes(resolved.message, claim.attempt, resolved.queue),
        )  # fmt: skip


def release_claim(
    claims: Claims,
    claimed: ClaimedDelivery,
    *,
    counts: bool,
    reason: str,
    wait_s: float = 0.0,
    ran_s: float = 0.0,
) -> Settlement:
    """Release the claim of a delivery, and return its settlement with a reason. See Release."""
    is_redelivered = claimed.delivery.is_redelivered
    release = Release(counts=counts, is_redelivered=is_redelivered, wait_s=wait_s, ran_s=ran_s)
    return _release(claims, [claimed], release, reason)


def release_unstarted(
    claims: Claims, unbegun: Sequence[ClaimedDelivery]
) -> list[tuple[ClaimedDelivery, Settlement]]:
    """Release the claims of deliveries that have not started, and return their settlements.

    Each waits before its next claim; the more often it has waited, the longer.
    """
    # One statement for all that are released alike, however many they are.
    alike: defaultdict[Release, list[ClaimedDelivery]] = defaultdict(list)
    for each in unbegun:
        wait_s = turn_wait_s(each.claim.n_waits)
        release = Release(counts=False, is_redelivered=each.delivery.is_redelivered, wait_s=wait_s)
        alike[release].append(each)
    settled: list[tuple[ClaimedDelivery, Settlement]] = []
    for release, group in alike.items():
        settlement = _release(claims, group, release, "not started")
        settled += [(each, settlement) for each in group]
    return settled


def _release(
    claims: Claims, claimed: Sequence[ClaimedDelivery], release: Release, reason: str
) -> Settlement:
    try:
        claims.release([each.claim for each in claimed], release)
    except Exception:
        ids = ", ".join(str(each.message.invocation_id) for each in claimed)
        logger.exception(
            "Claims can't be released; they run again when their leases are over: %s", ids
        )
        return replace(RETURNED, reason=f"{reason}, and its claim can't be released")
    return Settlement(is_final=False, retry_after_s=release.wait_s, reason=reason)


def outcome_of(value: object, task: Task) -> Succeeded:
    """Return the outcome of a run that returned `value`.

    Raises TypeError if the value is not JSON.
    """
    return Succeeded(to_json_values(value, what=f"the result of {task.name}"))


def follow_up_of(outcome: Outcome, message: Message, task: Task) -> Outgoing | None:
    """Return the message of the task that follows a success (`on_success`); None for none."""
    other = task.options.on_success
    # What undoes a durable function ends well where the function has not.
    if other is None or not isinstance(outcome, Succeeded) or UNDO_HEADER in message.headers:
        return None
    call: Outgoing = other.stored_call()
    return call


def continuation_of(request: Continue, run: Run, task: Task) -> tuple[Continued, Outgoing]:
    """Return the outcome of a run that raised Continue, and the message of the next run.

    Raises TypeError if the state is not JSON, ValueError if it is too large, and
    MaxContinuesExceededError if the chain of runs is too long.
    """
    state = state_as_json(request.state, task_name=task.name)
    n_continues = run.message.n_continues
    if n_continues >= run.max_continues:
        raise MaxContinuesExceededError(task_name=task.name, n_continues=n_continues)
    delay_s = 0.0 if run.retry_at_once else request.delay
    next_id = continuation_id(run.message.invocation_id, run.claim.token)
    next_run = _following_message(run, next_id, delay_s=delay_s, n_continues=n_continues + 1)
    return Continued(state), next_run


def next_run_of(
    suspension: Suspension, run: Run, task: Task, call_id: UUID
) -> tuple[Continued, Outgoing]:
    """Return the outcome of a run of a durable function that waits, and the message of the next.

    Raises MaxContinuesExceededError if the function has too many runs.
    """
    due = suspension.due if suspension.is_parked or not run.retry_at_once else None
    wait_s = 0.0 if due is None else max(0.0, (due - datetime.now(UTC)).total_seconds())
    woke = Continue({WOKE: suspension.name})
    outcome, following = continuation_of(woke, run, task)
    headers = {**following.message.headers, CALL_HEADER: str(call_id)}
    if due is None:
        return outcome, replace(following, message=replace(following.message, headers=headers))
    message = replace(following.message, run_after=due, headers=headers)
    return outcome, replace(
        following,
        message=message,
        body=message.encode(),
        delay_s=min(math.ceil(wait_s), MAX_DELAY_S),
        waits=suspension.is_parked or run.look.waits(wait_s),
        is_parked=suspension.is_parked,
    )


def is_retried(error: BaseException, run: Run, call: TaskCall) -> bool:
    """Return whether a retry follows a run that ends with an error."""
    if call.ignores(error) or run.message.n_retries >= run.max_retries:
        return False
    return call.retry_delay_s(error, jitter_s=0.0) is not None


def consequence_of(
    error: BaseException,
    run: Run,
    call: TaskCall,
    *,
    may_retry: bool = True,
) -> tuple[Outcome, Outgoing | None]:
    """Return the outcome of a run that raised an error, and the message of its retry or None."""
    n_retries = run.message.n_retries
    if isinstance(error, BaseExceptionGroup) and any(
        isinstance(each, Continue) for each in errors_in(error)
    ):
        error.add_note(CONTINUE_IN_GROUP)
    raised = describe(error, run.message)
    if call.ignores(error):
        return Succeeded(raised=raised), None
    jitter_s = random.uniform(*JITTER_S)
    delay_s = call.retry_delay_s(error, jitter_s=jitter_s) if may_retry else None
    if delay_s is None:
        return Failed(raised), None
    if n_retries >= run.max_retries:
        limit = MaxRetriesExceededError(task_name=run.message.task_name, n_retries=n_retries)
        error.add_note(str(limit))  # for the log, which formats the error itself
        return Failed(replace(raised, traceback=f"{raised.traceback}\n{_format(limit)}")), None
    if run.retry_at_once:
        delay_s = 0.0
    next_id = retry_id(run.message.invocation_id, run.claim.token)
    retry = _following_message(
        run, next_id, delay_s=delay_s, n_retries=n_retries + 1, n_continues=run.message.n_continues
    )
    return Retried(raised, timedelta(seconds=delay_s)), retry


def describe(error: BaseException, message: Message) -> Raised:
    """Describe an error, with the message's secrets redacted."""
    return Raised.from_error(error, redact(_format(error), message.secret_kwargs.values()))


def describe_refusal(error: Unrunnable, message: Message) -> Raised:
    """Describe why a message can't be run, without a traceback and with its secrets redacted."""
    return Raised.from_error(error, redact(str(error), message.secret_kwargs.values()))


def _following_message(
    run: Run, id: UUID, *, delay_s: float, n_retries: int = 0, n_continues: int
) -> Outgoing:
    """Return the message of the invocation that follows a run."""
    message = run.message
    following = replace(
        message,
        invocation_id=id,
        n_retries=n_retries,
        n_continues=n_continues,
        durable=True,
        run_after=_due_time(delay_s),
        root_id=message.root_id or message.invocation_id,
        retry_of=message.invocation_id,
        expires_at=None,  # It is about the first start.
    )
    return Outgoing(
        following,
        following.encode(),
        run.queue,
        min(round(delay_s), MAX_DELAY_S),
        look=run.look,
        waits=run.look.waits(delay_s),
        is_follow_up=True,
    )


def _due_time(delay_s: float) -> datetime | None:
    """Return when a delay ends that is too long for the queue itself; None for a shorter one."""
    return datetime.now(UTC) + timedelta(seconds=delay_s) if delay_s > MAX_DELAY_S else None


def _format(error: BaseException) -> str:
    """Return the traceback as text, from the task's own code on."""
    return "".join(traceback.format_exception(type(error), error, skip_library_frames(error)))
