"""What the actions on records do, by the functions that the command has too, and what they say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from django.utils.translation import gettext, ngettext, ngettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import operations
from ..core.lifecycle import Status
from ..operations import figures
from ..records.queries import find_many
from ..records.tables import TaskRecord
from .actions import Question

QUESTIONS: Final = {
    "retry": Question(
        action="retry",
        title=_("Retry selected tasks"),
        button=_("Retry"),
        will=ngettext_lazy("%d task will start over.", "%d tasks will start over."),
        did=ngettext_lazy("%d task starts over.", "%d tasks start over."),
        warnings=[
            _("Each starts over under its own id, with its attempts and retries at 0."),
            _("Its old error and traceback are gone then. A replay keeps them."),
        ],
        can_be_tried=True,
    ),
    "replay": Question(
        action="replay",
        title=_("Replay selected tasks"),
        button=_("Replay"),
        will=ngettext_lazy(
            "%d task will run once more, with the same arguments.",
            "%d tasks will run once more, with the same arguments.",
        ),
        did=ngettext_lazy("%d task was replayed.", "%d tasks were replayed."),
        warnings=[_("Each becomes a new record. The old ones stay as they are.")],
        can_be_tried=True,
    ),
    "requeue": Question(
        action="requeue",
        title=_("Send selected stuck tasks again"),
        button=_("Send again"),
        will=ngettext_lazy("%d task will be sent again.", "%d tasks will be sent again."),
        did=ngettext_lazy("%d task was sent again.", "%d tasks were sent again."),
        warnings=[_("None of them runs twice: it is claimed once, however many messages it has.")],
    ),
    "acknowledge": Question(
        action="acknowledge",
        title=_("Acknowledge selected failures"),
        button=_("Acknowledge"),
        will=ngettext_lazy(
            "%d failure will no longer count as still broken.",
            "%d failures will no longer count as still broken.",
        ),
        did=ngettext_lazy("%d failure was acknowledged.", "%d failures were acknowledged."),
        warnings=[_("Nothing runs. What is retried and fails again counts anew.")],
    ),
    "cancel": Question(
        action="cancel",
        title=_("Cancel selected tasks"),
        button=_("Cancel"),
        will=ngettext_lazy("%d task will be cancelled.", "%d tasks will be cancelled."),
        did=ngettext_lazy("%d task was cancelled.", "%d tasks were cancelled."),
        is_harmful=True,
    ),
    "delete_selected": Question(
        action="delete_selected",
        title=_("Delete selected task records"),
        button=_("Delete"),
        will=ngettext_lazy("%d record will be deleted.", "%d records will be deleted."),
        did=ngettext_lazy("%d record was deleted.", "%d records were deleted."),
        warnings=[_("Their arguments, results and tracebacks are gone then.")],
        is_harmful=True,
    ),
}


KEPT: Final = (
    "it has ended too recently. With LAMBDA_TASKS_SIGNING_KEYS, records are kept for 14 days"
)


@dataclass(frozen=True, slots=True)
class Made:
    """What an action has changed, or would change."""

    done: Sequence[UUID]
    skipped: Mapping[UUID, str]
    """Why nothing was done to the others."""
    new: Mapping[UUID, UUID] = field(default_factory=dict)
    """The ids of the replays by those of the replayed."""


def retry(ids: Sequence[UUID], *, by: str, dry_run: bool) -> Made:
    """See operations."""
    made = operations.retry(ids=ids, dry_run=dry_run)
    return Made(made.done, made.skipped)


def replay(ids: Sequence[UUID], *, by: str, dry_run: bool) -> Made:
    """See operations."""
    made = operations.replay(ids=ids, dry_run=dry_run)
    return Made(made.done, made.skipped, made.new)


def requeue(ids: Sequence[UUID], *, by: str, dry_run: bool) -> Made:
    """See operations."""
    done = operations.requeue(ids=ids, dry_run=dry_run).done
    return Made(done, dict.fromkeys(set(ids) - set(done), gettext("it is not stuck")))


def cancel(ids: Sequence[UUID], *, by: str, dry_run: bool) -> Made:
    """See operations."""
    made = operations.cancel(ids=ids, dry_run=dry_run)
    return Made(made.done, made.skipped)


def acknowledge(ids: Sequence[UUID], *, by: str, dry_run: bool) -> Made:
    """See operations.figures."""
    broken = [each.pk for each in find_many(ids) if each.broken_since is not None]
    if broken and not dry_run:
        figures.acknowledge(broken)
    return Made(broken, dict.fromkeys(set(ids) - set(broken), gettext("it is not broken")))


def delete(ids: Sequence[UUID], *, by: str, dry_run: bool) -> Made:
    """Delete the finished ones; see operations."""
    before = {each.pk: each for each in find_many(ids)}
    unfinished = [id for id, each in before.items() if not Status(each.status).is_finished]
    skipped = dict.fromkeys(unfinished, gettext("it is not finished: cancel it first"))
    done = [id for id in before if id not in skipped]
    if done and not dry_run:
        operations.purge(ids=done, all_time=True, by=by)
        kept = {each.pk for each in find_many(done)}
        skipped |= dict.fromkeys(kept, gettext(KEPT))
        done = [id for id in done if id not in kept]
    return Made(done, skipped)


ACTIONS: Final[Mapping[str, Callable[..., Made]]] = {
    "retry": retry, "replay": replay, "requeue": requeue, "acknowledge": acknowledge,
    "cancel": cancel, "delete_selected": delete,
}  # fmt: skip


def warnings(action: str, records: Iterable[TaskRecord]) -> list[str]:
    """Return what there is to know about these records before the action."""
    statuses = [record.status for record in records]
    n_succeeded, n_running = statuses.count(Status.SUCCESS), statuses.count(Status.RUNNING)
    if action == "replay" and n_succeeded:
        words = ngettext(
            "%d of them has succeeded: what it did, it does again.",
            "%d of them have succeeded: what they did, they do again.",
            n_succeeded,
        )
        return [words % n_succeeded]
    if action == "cancel" and n_running:
        words = ngettext(
            "%d of them runs: what it does is rolled back.",
            "%d of them run: what they do is rolled back.",
            n_running,
        )
        return [words % n_running]
    return []


def changes(
    action: str, records: Iterable[TaskRecord], made: Made
) -> Iterable[tuple[TaskRecord, str]]:
    """Yield records with what the admin's log says of each."""
    words = {
        "retry": "Retried.",
        "requeue": "Sent again.",
        "acknowledge": "Acknowledged.",
        "cancel": "Cancelled.",
        "delete_selected": "Deleted.",
    }
    for record in records:
        yield record, words.get(action) or f"Replayed as {made.new[record.pk]}."
