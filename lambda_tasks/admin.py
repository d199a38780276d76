"""The admin pages of records: read-only, with search and the action replay."""

import json
import uuid
from typing import Any, ClassVar, Final

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ImproperlyConfigured
from django.db import DEFAULT_DB_ALIAS, connections, models, router
from django.db.models import F, QuerySet
from django.db.models.expressions import ExpressionWrapper
from django.db.models.functions import Cast
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from . import runtime
from .core.lifecycle import UNFINISHED, Status
from .core.message import Outgoing
from .core.redaction import REDACTED
from .enqueue.prepare import prepare
from .errors import UnknownTask
from .ports import Task
from .records.encryption import decrypt
from .records.mapping import ARGS_KEY
from .records.queries import chain
from .records.tables import TaskRecord
from .registry import resolve

FIRST_OF_REPLAY: Final = 10
"""The number of records that the confirmation of a replay names."""

MIN_ID_PREFIX: Final = 8
"""The fewest hexadecimal digits that count as the beginning of an id: as many as the list shows."""

UUID_DIGITS: Final = 32
"""The hexadecimal digits of a whole id."""

HYPHEN_POSITIONS: Final = (8, 12, 16, 20)
"""The number of digits before each hyphen of an id."""

FIELDSETS = {
    "": ("id", "task_name", "status", "queue", "group_key", "backend", "headers"),
    "Arguments and result": ("args", "pretty_kwargs", "pretty_result", "pretty_traceback"),
    "Times": ("enqueued_at", "sent_at", "run_after", "start_time", "end_time", "duration_s"),
    "Retries": ("n_retries", "n_attempts", "refused_at", "root_id", "retry_of"),
    "Claim": ("worker_ids", "lease_until"),
}
"""The titles and fields of a record's page.

The claim token is left out. The id of the retry derives from it, so a reader who knows the token
could insert another record in the retry's place.
"""


LOOKUPS = frozenset(
    {
        f"{name}{suffix}"
        for names, suffixes in (
            (("status", "queue", "task_name"), ("", "__exact", "__isnull")),
            (("enqueued_at",), ("__gte", "__lt", "__isnull")),
        )
        for name in names
        for suffix in suffixes
    }
)
"""The lookups of the page's own filters."""


@admin.register(TaskRecord)
class TaskRecordAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # not generic at run time in 5.2
    """The read-only admin of records. The action replay needs a permission of its own."""

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["lambda_tasks/admin.css"]}

    list_display = (
        "short_id", "task_name", "coloured_status", "queue", "enqueued_at", "duration_s",
        "n_retries", "short_result",
    )  # fmt: skip
    list_filter = ("status", "queue", "task_name", "enqueued_at")
    list_per_page = 50
    search_fields = ("task_name",)
    search_help_text = "An invocation's id, part of a task's name, or part of an argument."
    show_full_result_count = False
    actions = ("replay",)
    fieldsets = tuple(  # pyright: ignore[reportAssignmentType] # a TypedDict of the stubs' own
        (title or None, {"fields": names}) for title, names in FIELDSETS.items()
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[TaskRecord]:
        """Return the records with their duration, so that the list can be ordered by it.

        They are those of the database that is written to: a replica may lag.
        """
        ran_for = ExpressionWrapper(
            F("end_time") - F("start_time"), output_field=models.DurationField()
        )
        queryset: QuerySet[TaskRecord] = super().get_queryset(request)
        return queryset.using(router.db_for_write(TaskRecord)).annotate(ran_for=ran_for)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[TaskRecord], search_term: str
    ) -> tuple[QuerySet[TaskRecord], bool]:
        """Search by id, or its beginning, which have an index; and by task name and argument."""
        term = search_term.strip()
        if not term:
            return queryset, False
        try:
            id = uuid.UUID(term)
        except ValueError:
            text = models.TextField()
            queryset = queryset.annotate(
                named=Cast("kwargs", text),
                positional=Cast("args", text),
                id_text=Cast("id", models.CharField(max_length=36)),
            )
            return queryset.filter(
                _has_id_prefix(term, connections[queryset.db].vendor)
                | models.Q(task_name__icontains=term)
                | models.Q(named__icontains=term)
                | models.Q(positional__icontains=term)
            ), False
        return queryset.filter(models.Q(id=id) | models.Q(root_id=id)), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Return whether a lookup is one of the page's own filters.

        With other lookups, such as `__startswith`, a reader could guess hidden values letter by
        letter.
        """
        return lookup in LOOKUPS

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only calls create records."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: a saved form would overwrite the whole row with the values of the page."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether a record may be deleted. One that is unfinished may still run."""
        if obj is not None and not Status(obj.status).is_finished:
            return False
        return super().has_delete_permission(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[TaskRecord]) -> None:
        """Delete the finished records among the selected ones."""
        super().delete_queryset(request, queryset.exclude(status__in=UNFINISHED))

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Return whether the user may replay records. See replay()."""
        user: Any = request.user  # Django's User, or a project's own
        return bool(user.has_perm("lambda_tasks.replay_taskrecord"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return all fields."""
        return [name for names in FIELDSETS.values() for name in names]

    @admin.display(description="Id", ordering="id")
    def short_id(self, record: TaskRecord) -> SafeString:
        """Return the first eight characters of the id, with the whole id as the tooltip."""
        return format_html('<span title="{}">{}</span>', record.id, str(record.id)[:8])

    @admin.display(description="Status", ordering="status")
    def coloured_status(self, record: TaskRecord) -> SafeString:
        """Return the status with a dot in its colour."""
        return format_html(
            '<span class="lambda-tasks-status lambda-tasks-status-{}">{}</span>',
            record.status.lower(),
            record.status,
        )

    @admin.display(description="Duration", ordering="ran_for")
    def duration_s(self, record: TaskRecord) -> str | None:
        """Return the duration of the last attempt in seconds, as text."""
        duration = record.duration
        return None if duration is None else f"{duration.total_seconds():.3f} s"

    @admin.display(description="Result")
    def short_result(self, record: TaskRecord) -> str:
        """Return the beginning of the result, or of the traceback's last line."""
        lines = (record.traceback or "").strip().splitlines()
        if lines:
            return lines[-1][:80]
        result = _readable_result(record)
        return "" if result is None else json.dumps(result)[:80]

    @admin.display(description="Arguments")
    def pretty_kwargs(self, record: TaskRecord) -> SafeString:
        """Return the arguments as indented JSON."""
        return _preformatted(json.dumps(record.kwargs, indent=2, ensure_ascii=False))

    @admin.display(description="Result")
    def pretty_result(self, record: TaskRecord) -> SafeString:
        """Return the result as indented JSON."""
        return _preformatted(json.dumps(_readable_result(record), indent=2, ensure_ascii=False))

    @admin.display(description="Traceback")
    def pretty_traceback(self, record: TaskRecord) -> SafeString:
        """Return the traceback as Python prints it."""
        return _preformatted(record.traceback or "none")

    @admin.action(description="Replay selected tasks", permissions=("replay",))
    def replay(
        self, request: HttpRequest, queryset: QuerySet[TaskRecord]
    ) -> TemplateResponse | None:
        """Enqueue new invocations with the arguments of the selected records, once confirmed.

        The records don't change. The admin's log says who replayed which record.
        """
        if request.POST.get("confirmed") != "yes":
            return self._ask_to_confirm(request, list(queryset))
        outgoing = []
        for record in queryset:
            try:
                replay = _replay_of(record)
                outgoing.append(replay)
                self.log_change(request, record, f"Replayed as {replay.message.invocation_id}.")
            except (UnknownTask, ImproperlyConfigured, ValueError) as error:
                self.message_user(
                    request, f"{record} can't be replayed: {error}", level=messages.ERROR
                )
        runtime.current().enqueuer.enqueue(outgoing, using=DEFAULT_DB_ALIAS)
        done = ngettext("%d task was replayed.", "%d tasks were replayed.", len(outgoing))
        if outgoing:
            self.message_user(request, done % len(outgoing), level=messages.SUCCESS)
        return None

    def _ask_to_confirm(self, request: HttpRequest, records: list[TaskRecord]) -> TemplateResponse:
        context = self.admin_site.each_context(request) | {
            "title": gettext("Replay selected tasks"),
            "opts": self.opts,
            "records": records,
            "first_records": records[:FIRST_OF_REPLAY],
            "n_more": max(len(records) - FIRST_OF_REPLAY, 0),
            "n_succeeded": sum(record.status == Status.SUCCESS for record in records),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "lambda_tasks/replay_confirmation.html", context)


def _has_id_prefix(term: str, vendor: str) -> models.Q:
    """Return the condition that an id begins with a term; for other terms, one that is false."""
    digits = term.replace("-", "").lower()
    is_hex = set(digits) <= set("0123456789abcdef")
    if not is_hex or not MIN_ID_PREFIX <= len(digits) <= UUID_DIGITS:
        return models.Q(pk__in=[])
    first, last = (uuid.UUID(digits.ljust(UUID_DIGITS, filler)) for filler in "0f")
    if vendor != "mysql":
        return models.Q(id__range=(first, last))
    # MariaDB orders UUIDs by other digits first. MySQL has them as text without hyphens.
    n_hyphens = sum(len(digits) > position for position in HYPHEN_POSITIONS)
    hyphened = str(first)[: len(digits) + n_hyphens]
    return models.Q(id_text__startswith=hyphened) | models.Q(id_text__startswith=digits)


def _replay_of(record: TaskRecord) -> Outgoing:
    """Return the message of a new invocation with a record's arguments.

    Raises ValueError, UnknownTask or ImproperlyConfigured where it can't be replayed.
    """
    if not Status(record.status).is_finished:
        raise ValueError(f"it is {record.status}, and runs by itself. Replay what has ended")
    task = resolve(record.task_name)
    if record.backend and chain(record.root_id or record.id)[-1] != record:
        raise ValueError("it was retried or replayed already. Replay the last of its records")
    secrets = decrypt(record.secrets, id=record.id)
    if missing := _hidden_arguments(record, task) - secrets.keys():
        names = ", ".join(sorted(missing))
        raise ValueError(f"its secret arguments ({names}) were removed after its end")
    args = secrets.pop(ARGS_KEY, record.args)
    return prepare(
        task.name,
        record.kwargs | secrets,
        queue=record.queue,
        durable=task.options.durable,
        args=args or (),
        backend=record.backend,
        group_key=record.group_key,
        root_id=record.root_id or record.id,
        headers=record.headers,
        # A TaskResult of django.tasks keeps its id, and follows the chain of retries to the replay.
        retry_of=record.id if record.backend else None,
        priority=record.priority,
        secret=task.secret_names,
    )


def _hidden_arguments(record: TaskRecord, task: Task) -> set[str]:
    """Return the names of the arguments that a row hides, with ARGS for positional ones."""
    names = {name for name, value in record.kwargs.items() if value == REDACTED}
    names |= task.secret_names & record.kwargs.keys()
    return names | {ARGS_KEY} if REDACTED in (record.args or ()) else names


def _readable_result(record: TaskRecord) -> object:
    try:
        return record.result
    except ValueError as error:
        return f"The result can't be read: {error}."


def _preformatted(text: str) -> SafeString:
    return format_html('<pre class="lambda-tasks-text">{}</pre>', text)
