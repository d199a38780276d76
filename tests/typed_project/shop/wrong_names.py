"""Names that a record does not have. For mypy, a class of Django has any name without stubs."""

from lambda_tasks.models import TaskRecord


def read_record(record: TaskRecord) -> None:
    print(TaskRecord.TaskStatus.SUCCESSFUL)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
    print(record.state_of)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]
