"""The tables. `TaskRecord` is the outbox, queue, claim and result of every invocation in one."""

import datetime
import uuid
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from asgiref.sync import sync_to_async
from django.core.checks import CheckMessage
from django.db import models, router
from django.db.models.query_utils import DeferredAttribute
from django.utils.translation import gettext_lazy as _

from ..core.durable import MAX_NAME as MAX_STEP_NAME
from ..core.graphs import WorkflowStatus
from ..core.lifecycle import UNFINISHED, Cancelled, Status
from ..core.message import CALL_HEADER, KEEP_ARGUMENTS_HEADER
from ..core.schedules import MAX_SCHEDULE_NAME
from ..twins import sync_form
from .encryption import decrypt_result
from .exact_text import ExactCharField

DROPS_ARGUMENTS: Final = models.Q(headers__has_key=KEEP_ARGUMENTS_HEADER)
"""The condition of records that do not keep their arguments."""


class RecordQuerySet(models.QuerySet["TaskRecord"]):
    """A query of records, with operations on several of them."""

    def cancel(self) -> int:
        """Cancel the unfinished records; return how many.

        A QUEUED task never runs. A RUNNING task can't commit any more: an async task is cancelled
        at its next await, and a sync task runs to its end and is rolled back there.
        """
        from .cancelling import cancel  # above this module, as it ends records

        return cancel(self.filter(status__in=UNFINISHED), Cancelled())

    def with_progress(self) -> Self:
        """Annotate records with `state`, `progress` and `progress_at`.

        Without it, the first access to each takes a query, which async code can't execute.
        """
        return self.annotate(
            state=latest_state(),
            progress=_progress_column("progress"),
            progress_at=_progress_column("shown_at"),
        )


if TYPE_CHECKING:

    class RecordManager(models.Manager["TaskRecord"]):
        """The manager, for type checkers: only the mypy plugin of django-stubs can infer it."""

        def filter(self, *args: Any, **kwargs: Any) -> RecordQuerySet:
            """See QuerySet."""
            ...

        def using(self, alias: str | None) -> RecordQuerySet:
            """See QuerySet."""
            ...

        def with_progress(self) -> RecordQuerySet:
            """See RecordQuerySet."""
            ...
else:
    RecordManager = models.Manager.from_queryset(RecordQuerySet)


def _choice(status: Status | WorkflowStatus) -> Any:
    """Return the value of a choice.

    Without django-stubs mypy takes a member for what it is assigned, here Any and not a plain str.
    """
    return status.value


class TaskStatus(models.TextChoices):
    """The statuses of a record; `core.lifecycle` says which follows which."""

    WAITING = _choice(Status.WAITING)
    QUEUED = _choice(Status.QUEUED)
    RUNNING = _choice(Status.RUNNING)
    SUCCESS = _choice(Status.SUCCESS)
    FAILED = _choice(Status.FAILED)
    RETRYING = _choice(Status.RETRYING)
    CANCELLED = _choice(Status.CANCELLED)

    # The names of two of them in django-lambda-tasks 0.8.
    SUCCEEDED: ClassVar["TaskStatus"]
    RETRIED: ClassVar["TaskStatus"]


# Not in its body: Django's choices have no aliases.
TaskStatus.SUCCEEDED = TaskStatus.SUCCESS
TaskStatus.RETRIED = TaskStatus.RETRYING

Statuses = TaskStatus
"""Another name of TaskStatus, which TaskRecord's attribute of that name hides in its body."""


class _Result(DeferredAttribute):
    """A record's `result`, decrypted if the record keeps it encrypted."""

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        kept = super().__get__(instance, owner)
        return kept if instance is None else decrypt_result(kept, id=instance.pk)

    def __set__(self, instance: Any, value: Any) -> None:
        # With __set__ this is a data descriptor, so __get__ is called even after a value is loaded.
        instance.__dict__[self.field.attname] = value


class _ResultField(models.JSONField):
    descriptor_class = _Result

    def deconstruct(self) -> Any:
        """Return the base field's description, because the column is the same."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, kwargs

    def pre_save(self, model_instance: Any, add: bool) -> Any:
        """Return the value as the record keeps it, encrypted or not."""
        return model_instance.__dict__.get(self.attname)


def _column(field: "models.Field[Any, Any]") -> Any:
    """Return the field. A record's attributes are annotated with what they hold.

    So they have types without django-stubs, too.
    """
    return field


class TaskRecord(models.Model):
    """One invocation of a task: its request, its claim, and its result."""

    TaskStatus: ClassVar[type[Statuses]] = Statuses

    id: uuid.UUID = _column(models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False))
    task_name: str = _column(models.CharField(max_length=255, editable=False))
    args: list[Any] | None = _column(models.JSONField(null=True, editable=False))
    kwargs: dict[str, Any] = _column(models.JSONField(editable=False))
    backend: str | None = _column(models.CharField(max_length=255, null=True, editable=False))
    queue: str = _column(models.CharField(max_length=255, default="default", editable=False))
    group_key: str | None = _column(models.CharField(max_length=128, null=True, editable=False))
    priority: int = _column(models.SmallIntegerField(default=0, editable=False))
    status: str = _column(
        models.CharField(
            max_length=10, choices=TaskStatus, default=TaskStatus.QUEUED, editable=False
        )
    )
    secrets: str | None = _column(models.TextField(null=True, editable=False))
    result: Any = _column(_ResultField(null=True, editable=False))
    exception_class: str | None = _column(models.TextField(null=True, editable=False))
    traceback: str | None = _column(models.TextField(null=True, editable=False))

    n_retries: int = _column(models.PositiveSmallIntegerField(default=0, editable=False))
    n_continues: int = _column(models.PositiveSmallIntegerField(default=0, editable=False))
    n_attempts: int = _column(models.PositiveSmallIntegerField(default=0, editable=False))
    root_id: uuid.UUID | None = _column(models.UUIDField(null=True, editable=False))
    retry_of: uuid.UUID | None = _column(models.UUIDField(null=True, editable=False))
    headers: dict[str, Any] | None = _column(models.JSONField(null=True, editable=False))

    enqueued_at: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))
    sent_at: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))
    run_after: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))
    start_time: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))
    end_time: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))

    worker_ids: str | None = _column(models.TextField(null=True, editable=False))
    claim_token: uuid.UUID | None = _column(models.UUIDField(null=True, editable=False))
    lease_until: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))

    look_at: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))
    """The time at which a worker or the relay must look at the record; None for never.

    It is written with the record. Afterwards it moves only where somebody looks too early, or
    postpones the record, or makes it due; its claim may move it to the end of the lease, and its
    end clears it.
    """
    refused_at: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))
    """The time at which a worker first refused it, because its release can't run it; None for never
    since its last run. LAMBDA_TASKS_DEPLOYMENT_GRACE counts from here."""
    n_waits: int = _column(models.PositiveSmallIntegerField(default=0, editable=False))
    """The number of times it was postponed, or released before its turn."""
    cut_off_s: float | None = _column(models.FloatField(null=True, editable=False))
    """Total seconds of attempts that were interrupted by shutdown of their host process."""
    limit_key: str | None = _column(models.CharField(max_length=64, null=True, editable=False))
    """A digest of the key for whose places it waits; None while it waits for none."""
    reserved_for: datetime.datetime | None = _column(
        models.DateTimeField(null=True, editable=False)
    )
    """The moment that a rate has reserved for its start; None for none. Each has one at most."""

    expires_at: datetime.datetime | None = _column(
        models.DateTimeField(
            null=True,
            editable=False,
            help_text="If the task has not begun by this time, it is cancelled.",
        )
    )
    unique_key: uuid.UUID | None = _column(
        models.UUIDField(
            null=True,
            editable=False,
            help_text="While a record holds this key, an equal call joins it. A hash of the task's "
            "name and of the arguments that `unique_by` names; empty once the key is free.",
        )
    )
    unique_while: str | None = _column(
        models.CharField(
            max_length=10,
            null=True,
            editable=False,
            help_text="Until when the record holds its key: until a worker claims it (queued), or "
            "until it has ended (unfinished).",
        )
    )
    unique_until: datetime.datetime | None = _column(
        models.DateTimeField(
            null=True,
            editable=False,
            help_text="The record holds its key until this time although it has succeeded.",
        )
    )

    workflow_id: uuid.UUID | None = _column(models.UUIDField(null=True, editable=False))
    step: int | None = _column(models.PositiveIntegerField(null=True, editable=False))
    """The number of the step in its workflow. A retry or a further run takes it over."""
    links: dict[str, Any] | None = _column(models.JSONField(null=True, editable=False))
    """What the step gets from others, and which joins count its end: see core.graphs.Place."""

    error_id: uuid.UUID | None = _column(models.UUIDField(null=True, editable=False))
    """The TaskError of a run that has FAILED, or is RETRYING: equal ones have the same."""
    broken_since: datetime.datetime | None = _column(
        models.DateTimeField(null=True, editable=False)
    )
    """The end of a FAILED record that is still broken: no later record of its lineage has
    succeeded, and nobody has acknowledged it. None for all others."""

    objects: ClassVar[RecordManager] = RecordManager()

    class Meta:
        verbose_name = _("task record")
        verbose_name_plural = _("task records")
        ordering: ClassVar[list[str]] = ["-enqueued_at"]
        permissions = (
            ("view_payload_taskrecord", "Can view arguments, results and tracebacks"),
            ("replay_taskrecord", "Can retry and replay task record"),
            ("run_taskrecord", "Can run tasks with arguments of one's choice"),
            ("cancel_taskrecord", "Can cancel task record"),
        )
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["-enqueued_at"], name="taskrecord_enqueued"),
            models.Index(
                fields=["queue", "-priority", "look_at"],
                condition=models.Q(look_at__isnull=False),
                name="taskrecord_look_at",
            ),
            models.Index(
                fields=["end_time"],
                condition=models.Q(end_time__isnull=False),
                name="taskrecord_end_time",
            ),
            models.Index(fields=["task_name", "enqueued_at"], name="taskrecord_task_name"),
            models.Index(fields=["root_id"], name="taskrecord_root"),
            models.Index(
                fields=["limit_key", "-priority", "enqueued_at"],
                condition=models.Q(limit_key__isnull=False),
                name="taskrecord_limit_key",
            ),
            models.Index(
                fields=["workflow_id", "step"],
                condition=models.Q(workflow_id__isnull=False),
                name="taskrecord_workflow",
            ),
            models.Index(
                fields=["broken_since", "error_id"],
                condition=models.Q(broken_since__isnull=False),
                name="taskrecord_broken",
            ),
            models.Index(
                fields=["error_id", "end_time"],
                condition=models.Q(error_id__isnull=False),
                name="taskrecord_error",
            ),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=models.Q(status__in=TaskStatus.values), name="taskrecord_status_valid"
            ),
            models.UniqueConstraint(
                fields=["unique_key"],
                condition=models.Q(unique_key__isnull=False),
                name="taskrecord_unique_key",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task_name} {self.id}"

    @classmethod
    def check(cls, **kwargs: Any) -> list[CheckMessage]:
        """See Model. Drops the warnings that MySQL has no partial index; its indexes are full."""
        dropped = ("models.W036", "models.W037")
        return [each for each in super().check(**kwargs) if each.id not in dropped]

    @property
    def duration(self) -> datetime.timedelta | None:
        """The duration of the last attempt; None before its end."""
        if self.start_time is None or self.end_time is None:
            return None
        return self.end_time - self.start_time

    @property
    def waits_for(self) -> str | None:
        """What a QUEUED record with a limit or a rate waits for; None for nothing of the kind."""
        if self.status != TaskStatus.QUEUED:
            return None
        if self.limit_key is not None:
            return "a place of its limit"
        return None if self.reserved_for is None else "its moment, as its rate allows"

    @property
    def call_id(self) -> uuid.UUID | None:
        """The id of the call of a durable function whose run this is; None for other tasks."""
        id: str | None = (self.headers or {}).get(CALL_HEADER)
        return None if id is None else uuid.UUID(id)

    @cached_property
    def state(self) -> Any:
        """The state that a run saved last, or got from the run that it continues; None for none."""
        states = RunState.objects.using(self._state.db).filter(record_id=self.pk)
        return states.order_by("-attempt").values_list("state", flat=True).first()

    @cached_property
    def progress(self) -> Any:
        """The progress that a run has shown: `done`, `total` and `text`; None for none."""
        return None if self._progress is None else self._progress.progress

    @cached_property
    def progress_at(self) -> datetime.datetime | None:
        """The time of the last progress; None for none."""
        return None if self._progress is None else self._progress.shown_at

    @cached_property
    def _progress(self) -> "RunProgress | None":
        return RunProgress.objects.using(self._state.db).filter(record_id=self.pk).first()

    def refresh_from_db(self, *args: Any, **kwargs: Any) -> None:
        """See Model."""
        for name in RELATED_VALUES:
            vars(self).pop(name, None)
        super().refresh_from_db(*args, **kwargs)

    @sync_form("record.acancel()")
    def cancel(self) -> bool:
        """Cancel this invocation; return False where it is finished.

        See RecordQuerySet.cancel().
        """
        alias = router.db_for_write(TaskRecord)
        this_record = TaskRecord.objects.using(alias).filter(id=self.pk)
        cancelled = this_record.cancel()
        self.refresh_from_db(using=alias)  # a replica may not have it yet
        return bool(cancelled)

    async def acancel(self) -> bool:
        """See cancel()."""
        return await sync_to_async(self.cancel)()


class RunState(models.Model):
    """The state that an attempt saved in its own transaction. Attempt 0 is the run before it.

    Each attempt has a row, because a lost attempt that still runs may hold a lock on its own row.
    """

    pk = models.CompositePrimaryKey("record_id", "attempt")
    record = models.ForeignKey(
        TaskRecord,
        models.CASCADE,
        # A constraint would make each write read the record, and on MySQL lock it.
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
    """The progress of a run, written outside of its transaction."""

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


RELATED_VALUES: Final = ("state", "progress", "progress_at", "_progress")
"""The attributes that a record caches from other tables."""


def latest_state() -> models.Subquery:
    """Return a subquery for queries of records: the state that the next run starts with."""
    states = RunState.objects.filter(record_id=models.OuterRef("id")).order_by("-attempt")
    return models.Subquery(states.values("state")[:1])


def _progress_column(column: str) -> models.Subquery:
    shown = RunProgress.objects.filter(record_id=models.OuterRef("id"))
    return models.Subquery(shown.values(column))


class ScheduleState(models.Model):
    """What is known of a schedule besides its declaration: how far it is, and whether it is on."""

    name: str = _column(
        models.CharField(max_length=MAX_SCHEDULE_NAME, primary_key=True, editable=False)
    )
    task_name: str = _column(models.CharField(max_length=255, editable=False))
    rule: str = _column(models.TextField(editable=False))
    """The rule in words, as the release had it that wrote it last."""
    rule_at: datetime.datetime = _column(models.DateTimeField(editable=False))
    """The time at which the rule was written."""
    token: uuid.UUID = _column(models.UUIDField(default=uuid.uuid4, editable=False))
    """The ids of the runs derive from it, so that nobody who knows the name can guess them."""
    last_due: datetime.datetime = _column(models.DateTimeField(editable=False))
    """The time up to which due times are decided. It never goes back."""
    next_due: datetime.datetime | None = _column(
        models.DateTimeField(null=True, db_index=True, editable=False)
    )
    """The first due time after that; None where there is none."""
    is_enabled: bool = _column(models.BooleanField(default=True, editable=False))
    changed_by: str = _column(models.CharField(max_length=255, default="", editable=False))
    """Who has switched it on or off last."""
    reason: str = _column(models.TextField(default="", editable=False))
    changed_at: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))
    n_skipped: int = _column(models.PositiveIntegerField(default=0, editable=False))
    """The runs that `overlap="skip"` has skipped."""

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        default_permissions = ("view",)
        permissions = (
            ("switch_schedulestate", "Can pause and resume schedule"),
            ("run_schedulestate", "Can run schedule now"),
        )

    def __str__(self) -> str:
        return self.name

    def run_id(self, due: datetime.datetime) -> uuid.UUID:
        """Return the id of the run of a due time in UTC, which is always the same."""
        return uuid.uuid5(self.token, due.isoformat())


class QueueState(models.Model):
    """Whether a queue is paused, and who has switched it last. One without a row never was."""

    name: str = _column(models.CharField(max_length=255, primary_key=True, editable=False))
    is_paused: bool = _column(models.BooleanField(default=False, editable=False))
    changed_by: str = _column(models.CharField(max_length=255, default="", editable=False))
    reason: str = _column(models.TextField(default="", editable=False))
    changed_at: datetime.datetime | None = _column(models.DateTimeField(null=True, editable=False))

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        default_permissions = ("view",)
        permissions = (
            ("pause_queuestate", "Can pause and resume queue"),
            ("redrive_queuestate", "Can send dead letters back to queue"),
            ("purge_queuestate", "Can delete dead letters of queue"),
        )

    def __str__(self) -> str:
        return self.name


class LimitPlace(models.Model):
    """One of the places of a key, of which each run with a limit holds one.

    A place without a token is kept for its record until a claim confirms it. A place whose time is
    over is free.
    """

    pk = models.CompositePrimaryKey("key", "number")
    key = models.CharField(max_length=64, editable=False)
    """A digest: see records.limits."""
    number = models.PositiveSmallIntegerField(editable=False)
    record_id = models.UUIDField(editable=False)
    """The record, or the holder of a lock."""
    token = models.UUIDField(null=True, editable=False)
    """The token of the claim."""
    held_until = models.DateTimeField(editable=False)

    def __str__(self) -> str:
        return f"{self.pk}"


class LimitPace(models.Model):
    """The next moment at which a run of a key with a rate may begin."""

    key = models.CharField(max_length=64, primary_key=True, editable=False)
    next_at = models.DateTimeField(db_index=True, editable=False)

    def __str__(self) -> str:
        return self.key


class UsedSignature(models.Model):
    """The signature of a request to an endpoint, kept until it is no longer valid."""

    key = models.CharField(max_length=64, primary_key=True, editable=False)
    """A digest of the signature."""
    token = models.UUIDField(editable=False)
    """The token of the request that used it."""
    kept_until = models.DateTimeField(db_index=True, editable=False)

    def __str__(self) -> str:
        return self.key


class RelayShift(models.Model):
    """The turn to relay, which one process of the system has at a time: a single row."""

    name = models.CharField(max_length=64, primary_key=True, editable=False)
    token = models.UUIDField(null=True, editable=False)
    """The request that has taken the shift."""
    next_at = models.DateTimeField(editable=False)
    """The time from which the next process may take it."""
    n_asked = models.FloatField(default=0, editable=False)
    """The processes that have asked since it was taken. One that asks every other shift counts as
    two, so this estimates how many there are."""
    n_asked_before = models.FloatField(default=0, editable=False)
    """`n_asked` at the end of the shift before."""

    def __str__(self) -> str:
        return self.name


class Workflow(models.Model):
    """A graph of steps that was called as one. Its steps are TaskRecords with its id."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255, editable=False)
    status = models.CharField(
        max_length=10, default=_choice(WorkflowStatus.RUNNING), db_index=True, editable=False
    )
    created_at = models.DateTimeField(db_index=True, editable=False)
    ended_at = models.DateTimeField(null=True, db_index=True, editable=False)
    """When it ended; where it was cancelled, when the last of its steps was."""
    n_steps = models.PositiveIntegerField(editable=False)
    lowest_join = models.IntegerField(default=0, editable=False)
    """The lowest number of a join. Joins of steps that are added later have lower ones."""
    results = models.JSONField(editable=False)
    """Where the result is: see core.graphs.Plan."""
    call_id = models.UUIDField(null=True, db_index=True, editable=False)
    """The call of the durable function that waits, or has waited, for it; None for others."""

    class Meta:
        verbose_name = _("workflow")
        verbose_name_plural = _("workflows")
        default_permissions = ("view",)
        permissions = (
            ("cancel_workflow", "Can cancel workflow"),
            ("retry_workflow", "Can retry failed steps of workflow"),
        )

    def __str__(self) -> str:
        return f"{self.name} {self.id}"


class WorkflowJoin(models.Model):
    """One count of a join: the steps of a workflow without an end that it waits for.

    A wide join has several counts, so that members that end at the same time do not wait for each
    other, and one more, numbered HUB, of those that are still open. The last one to reach zero
    decides; it has the columns that say what then happens.
    """

    pk = models.CompositePrimaryKey("workflow_id", "number", "shard")
    workflow_id = models.UUIDField(editable=False)
    number = models.IntegerField(editable=False)
    shard = models.SmallIntegerField(editable=False)
    remaining = models.IntegerField(editable=False)
    failed = models.IntegerField(editable=False)
    terms = models.JSONField(null=True, editable=False)
    """What follows when it reaches zero: see core.graphs.Terms. None for one count among others."""
    succeeded = models.BooleanField(null=True, editable=False)
    """The decision; None before it."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.pk}"


class StepCheckpoint(models.Model):
    """What is kept of one step of a durable function. See core.durable.Checkpoint."""

    pk = models.CompositePrimaryKey("call_id", "name")
    call_id = models.UUIDField(editable=False)
    """The id of the call's first invocation."""
    name = ExactCharField(max_length=MAX_STEP_NAME, editable=False)
    kind = models.CharField(max_length=10, editable=False)
    number = models.PositiveIntegerField(editable=False)
    value = models.JSONField(null=True, editable=False)
    error = models.JSONField(null=True, editable=False)
    function = models.CharField(max_length=255, default="", editable=False)
    began_at = models.DateTimeField(editable=False)
    ended_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name} of {self.call_id}"


class StepSignal(models.Model):
    """A signal to a durable function, or a wait for one: whichever comes first makes the row.

    So the two meet in its key, and neither can miss the other.
    """

    pk = models.CompositePrimaryKey("call_id", "name")
    call_id = models.UUIDField(editable=False)
    name = ExactCharField(max_length=MAX_STEP_NAME, editable=False)
    value = models.JSONField(null=True, editable=False)
    type = models.CharField(max_length=255, default="", editable=False)
    """The type of the value, as a reference; empty where it has none."""
    run_id = models.UUIDField(null=True, editable=False)
    """The run that a signal wakes; None before there is one."""
    came_at = models.DateTimeField(null=True, editable=False)
    """When the signal came; None before that."""
    is_over = models.BooleanField(default=False, editable=False)
    """Whether the wait has ended without a signal."""
    token = models.UUIDField(default=uuid.uuid4, editable=False)
    """The proof of who has made the row."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name} to {self.call_id}"


class RunFigures(models.Model):
    """How many records of one task, queue and outcome have ended in a span of time, and how fast.

    The sum of all tasks has the name "". Each end counts in the four spans of core.figures.SPANS in
    which it is, so whoever reads takes the longest spans that will do.
    """

    pk = models.CompositePrimaryKey("minutes", "start", "task_name", "queue", "status")
    minutes = models.PositiveSmallIntegerField(editable=False)
    """The length of the span."""
    start = models.DateTimeField(editable=False)
    """A multiple of the length since midnight in UTC."""
    task_name = models.CharField(max_length=255, editable=False)
    queue = models.CharField(max_length=255, editable=False)
    status = models.CharField(max_length=10, editable=False)
    n = models.PositiveIntegerField(editable=False)
    wait_s = models.FloatField(editable=False)
    """The seconds from when each was due to its start, in all."""
    run_s = models.FloatField(editable=False)
    """The seconds of the last attempt of each, in all."""
    waits = models.TextField(editable=False)
    """The histogram of the seconds that they waited, as core.histograms writes it. What ended
    without a start is not in it."""
    runs = models.TextField(editable=False)
    """The histogram of the seconds that they ran."""
    last_end = models.DateTimeField(editable=False)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.pk}"


class TaskError(models.Model):
    """An error of tasks: what all failures have in common that differ in numbers and names only."""

    id = models.UUIDField(primary_key=True, editable=False)
    """A digest of the following three, so that all processes agree on it."""
    exception_class = models.TextField(editable=False)
    """The dotted name of the exception's class."""
    message = models.TextField(editable=False)
    """The exception's text, with placeholders for numbers, ids and what is in quotes."""
    raised_in = models.TextField(editable=False)
    """The file and function of the project's own code that raised it, or called what did."""
    task_name = models.CharField(max_length=255, editable=False)
    """The task that failed with it last."""
    first_seen = models.DateTimeField(editable=False)
    last_seen = models.DateTimeField(db_index=True, editable=False)
    releases = models.JSONField(default=list, editable=False)
    """The releases in which it was seen, the first one first; the last ten of them."""
    examples = models.JSONField(default=list, editable=False)
    """The ids of the last records with it, the latest first."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.exception_class}: {self.message}"


class ErrorFigures(models.Model):
    """How many records of one task have ended with an error in a span of time."""

    pk = models.CompositePrimaryKey("minutes", "start", "error_id", "task_name")
    minutes = models.PositiveSmallIntegerField(editable=False)
    """The length of the span: see RunFigures."""
    start = models.DateTimeField(editable=False)
    error_id = models.UUIDField(editable=False)
    task_name = models.CharField(max_length=255, editable=False)
    failed = models.PositiveIntegerField(editable=False)
    retried = models.PositiveIntegerField(editable=False)
    """The runs that a retry has followed by itself."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.pk}"


class LastTick(models.Model):
    """What the last tick has found: a single row."""

    id = models.PositiveSmallIntegerField(primary_key=True, editable=False)
    """Always 1."""
    counted_until = models.DateTimeField(editable=False)
    """The minute up to which all ends are counted, but those that become visible late."""
    at = models.DateTimeField(null=True, editable=False)
    """The time of the tick that has counted last; None for none."""
    n_connections = models.PositiveIntegerField(null=True, editable=False)
    """The connections to the database server, of everybody; None where that is unknown."""
    max_connections = models.PositiveIntegerField(null=True, editable=False)
    releases = models.JSONField(default=list, editable=False)
    """The last releases that have run tasks, each with its name and the time it was first seen."""

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.at}"


class DoctorReport(models.Model):
    """What the doctor has found last: a single row. See records/reports.py."""

    id = models.PositiveSmallIntegerField(primary_key=True, editable=False)
    """Always 1."""
    at = models.DateTimeField(editable=False)
    """The time of the examination."""
    ignored = models.JSONField(default=list, editable=False)
    """The ids of checks that were left out, as they were given."""
    findings = models.JSONField(default=list, editable=False)
    """The worst findings, the worst first, each as JSON."""
    n_findings = models.PositiveIntegerField(default=0, editable=False)
    """How many there were in all."""
    queues = models.JSONField(default=dict, editable=False)
    """By the names of queues in the settings, how SQS has them, compared with what they should be;
    those that could be read."""
    failed_at = models.DateTimeField(null=True, editable=False)
    """When an examination since then got no answer of AWS, and left this report; None for none."""
    failure = models.TextField(default="", editable=False)
    """Why AWS has answered nothing: then, or without `failed_at` in this report's examination."""

    class Meta:
        verbose_name = "doctor's report"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.at}"
