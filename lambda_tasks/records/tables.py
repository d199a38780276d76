"""The tables. `TaskRecord` is outbox, queue, claim and result of every invocation in one."""

import datetime
import uuid
from functools import cached_property
from typing import Any, ClassVar, Final, Self

from asgiref.sync import sync_to_async
from django.core.checks import CheckMessage
from django.db import models, router
from django.db.models.query_utils import DeferredAttribute

from ..core.lifecycle import UNFINISHED, Cancelled, Status
from .encryption import decrypt_result
from .finishes import finish


class RecordQuerySet(models.QuerySet["TaskRecord"]):
    """Records, and what can be done with several of them."""

    def cancel(self) -> int:
        """Let those of them not run, or not come to an end, that are unfinished; return how many.

        A QUEUED one never runs. A RUNNING one can't commit any more: an async one is cancelled at
        its next await, a sync one goes on to its end and is rolled back there.
        """
        return finish(self.filter(status__in=UNFINISHED), Cancelled())

    def with_progress(self) -> Self:
        """With `state`, `progress` and `progress_at`, which else cost a statement each when they
        are asked for, and in async code can't be."""
        return self.annotate(
            state=latest_state(), progress=_shown("progress"), progress_at=_shown("shown_at")
        )


class TaskStatus(models.TextChoices):
    """The life of a record; `core.lifecycle` tells which status follows which."""

    QUEUED = Status.QUEUED.value
    RUNNING = Status.RUNNING.value
    SUCCESS = Status.SUCCESS.value
    FAILED = Status.FAILED.value
    RETRYING = Status.RETRYING.value
    CANCELLED = Status.CANCELLED.value


Statuses = TaskStatus
"""Within TaskRecord the other name is its own."""


class _Result(DeferredAttribute):
    """What a record's `result` is: readable, however it is kept."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        kept = super().__get__(instance, owner)
        return kept if instance is None else decrypt_result(kept, id=instance.pk)

    def __set__(self, instance: Any, value: Any) -> None:
        # With this it is asked even where the record holds a value.
        instance.__dict__[self.field.attname] = value


class _ResultField(models.JSONField):
    descriptor_class = _Result

    def deconstruct(self) -> Any:
        """As its base: the column is the same."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, kwargs

    def pre_save(self, model_instance: Any, add: bool) -> Any:
        """As it is kept."""
        return model_instance.__dict__.get(self.attname)


class TaskRecord(models.Model):
    """One invocation of a task: what was asked for, what became of it."""

    TaskStatus: ClassVar[type[Statuses]] = Statuses

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task_name = models.CharField(max_length=255, editable=False)
    args = models.JSONField(null=True, editable=False)
    kwargs = models.JSONField(editable=False)
    backend = models.CharField(max_length=255, null=True, editable=False)
    queue = models.CharField(max_length=255, default="default", editable=False)
    group_key = models.CharField(max_length=128, null=True, editable=False)
    priority = models.SmallIntegerField(default=0, editable=False)
    status = models.CharField(
        max_length=10, choices=TaskStatus, default=TaskStatus.QUEUED, editable=False
    )
    secrets = models.TextField(null=True, editable=False)
    result = _ResultField(null=True, editable=False)
    exception_class = models.TextField(null=True, editable=False)
    traceback = models.TextField(null=True, editable=False)

    n_retries = models.PositiveSmallIntegerField(default=0, editable=False)
    n_continues = models.PositiveSmallIntegerField(default=0, editable=False)
    n_attempts = models.PositiveSmallIntegerField(default=0, editable=False)
    root_id = models.UUIDField(null=True, editable=False)
    retry_of = models.UUIDField(null=True, editable=False)

    enqueued_at = models.DateTimeField(null=True, editable=False)
    sent_at = models.DateTimeField(null=True, editable=False)
    run_after = models.DateTimeField(null=True, editable=False)
    start_time = models.DateTimeField(null=True, editable=False)
    end_time = models.DateTimeField(null=True, editable=False)

    worker_ids = models.TextField(null=True, editable=False)
    claim_token = models.UUIDField(null=True, editable=False)
    lease_until = models.DateTimeField(null=True, editable=False)

    look_at = models.DateTimeField(null=True, editable=False)
    """When somebody must look at it again, whose business it is; None: nobody must, as at its end.

    Written with the record, and moved only by who looks and finds that it is not yet time, by what
    puts it behind others, and by what makes it due.
    """
    n_waits = models.PositiveSmallIntegerField(default=0, editable=False)
    """How often it has waited: put behind others, or given back before its turn."""
    cut_off_s = models.FloatField(null=True, editable=False)
    """For how many seconds it has run, in all, in attempts that the end of their place cut off."""

    objects = RecordQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-enqueued_at"]
        permissions = (("replay_taskrecord", "Can replay task record"),)
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["-enqueued_at"], name="taskrecord_enqueued"),
            models.Index(
                fields=["queue", "-priority", "look_at"],
                condition=models.Q(look_at__isnull=False),
                name="taskrecord_look_at",
            ),
            models.Index(fields=["status", "-enqueued_at"], name="taskrecord_by_status"),
            models.Index(fields=["task_name", "enqueued_at"], name="taskrecord_task_name"),
            models.Index(fields=["root_id"], name="taskrecord_root"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=models.Q(status__in=TaskStatus.values), name="taskrecord_status_valid"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task_name} {self.id}"

    @classmethod
    def check(cls, **kwargs: Any) -> list[CheckMessage]:
        """See Model. That MySQL has no partial index is known: there it has all records."""
        return [each for each in super().check(**kwargs) if each.id != "models.W037"]

    @property
    def duration(self) -> datetime.timedelta | None:
        """How long the last attempt ran; None before its end."""
        if self.start_time is None or self.end_time is None:
            return None
        return self.end_time - self.start_time

    @cached_property
    def state(self) -> Any:
        """What a run has saved last, or was handed on by the run before it; None for nothing."""
        states = RunState.objects.using(self._state.db).filter(record_id=self.pk)
        return states.order_by("-attempt").values_list("state", flat=True).first()

    @cached_property
    def progress(self) -> Any:
        """How far a run has said that it is: `done`, `total` and `text`; None for nothing."""
        return None if self._progress is None else self._progress.progress

    @cached_property
    def progress_at(self) -> datetime.datetime | None:
        """When it has said so."""
        return None if self._progress is None else self._progress.shown_at

    @cached_property
    def _progress(self) -> "RunProgress | None":
        return RunProgress.objects.using(self._state.db).filter(record_id=self.pk).first()

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        """See Model."""
        for name in BESIDE:
            vars(self).pop(name, None)
        super().refresh_from_db(*args, **kwargs)

    def cancel(self) -> bool:
        """Cancel this invocation; False where it is finished already. See RecordQuerySet."""
        alias = router.db_for_write(TaskRecord)
        own = TaskRecord.objects.using(alias).filter(id=self.pk)
        cancelled = own.cancel()  # pyright: ignore[reportAttributeAccessIssue] # see all_records()
        self.refresh_from_db()
        return bool(cancelled)

    async def acancel(self) -> bool:
        """See cancel()."""
        return await sync_to_async(self.cancel)()


class RunState(models.Model):
    """What an attempt has saved, within its own transaction. Attempt 0 is the run before it.

    A row for each, as the row of an attempt that was lost, and has not ended, may be locked.
    """

    pk = models.CompositePrimaryKey("record_id", "attempt")
    record = models.ForeignKey(
        TaskRecord,
        models.CASCADE,
        # A constraint would cost each write a look at the record, and MySQL a lock on it.
        db_constraint=False,
        db_index=False,
        editable=False,
        related_name="+",
    )
    attempt = models.PositiveSmallIntegerField(editable=False)
    state = models.JSONField(null=True, editable=False)

    def __str__(self) -> str:
        return f"{self.pk}"


class RunProgress(models.Model):
    """How far a run is, written beside its transaction."""

    record = models.OneToOneField(
        TaskRecord,
        models.CASCADE,
        primary_key=True,
        db_constraint=False,
        editable=False,
        related_name="+",
    )
    progress = models.JSONField(editable=False)
    shown_at = models.DateTimeField(editable=False)

    def __str__(self) -> str:
        return f"{self.pk} {self.progress}"


BESIDE: Final = ("state", "progress", "progress_at", "_progress")
"""What a record reads from tables beside its own."""


def latest_state() -> models.Subquery:
    """In a query of records, the state that the next run begins with."""
    states = RunState.objects.filter(record_id=models.OuterRef("id")).order_by("-attempt")
    return models.Subquery(states.values("state")[:1])


def _shown(column: str) -> models.Subquery:
    shown = RunProgress.objects.filter(record_id=models.OuterRef("id"))
    return models.Subquery(shown.values(column))


class SingletonLock(models.Model):
    """Who runs a singleton, where the cache of LAMBDA_TASKS_SINGLETON_CACHE is not Redis."""

    key = models.CharField(max_length=64, primary_key=True, editable=False)
    token = models.UUIDField(editable=False)
    held_until = models.DateTimeField(editable=False)

    def __str__(self) -> str:
        return self.key
