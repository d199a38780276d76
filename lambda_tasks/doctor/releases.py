"""The release here and that of the function: what one side does not know."""

from collections.abc import Iterator
from typing import Final

from .findings import Found, check
from .inside import Answer, about_this_side

SHOWN: Final = 5
"""The most tasks that a finding names."""


@check(
    "function.answer",
    "error",
    why="A function that can't answer runs no task either.",
)
def answer(answer: Answer) -> Iterator[Found]:
    """Yield that the function does not answer the event."""
    if answer.answer.error is not None:
        yield Found(
            f"{answer.answer.error}",
            'An answer to the event {"lambda_tasks": "doctor"}.',
            "Look into the function's log. Its handler is lambda_tasks.handler.handler, and its "
            "release has this event.",
        )


@check(
    "release.tasks",
    "error",
    why="A call whose task the function does not have waits, and is given up after "
    "LAMBDA_TASKS_DEPLOYMENT_GRACE.",
)
def tasks(answer: Answer) -> Iterator[Found]:
    """Yield that one side has tasks that the other does not have."""
    there, here = set(answer.answer.value["tasks"]), set(about_this_side()["tasks"])
    for side, missing, severity in (
        ("The function", here - there, None),
        ("This side", there - here, "warning"),
    ):
        if missing:
            shown = ", ".join(sorted(missing)[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
            yield Found(
                f"{side} does not have {shown}.",
                "Both sides have the same tasks, except during a deployment.",
                "Deploy the same release on both sides; the function first, for new tasks.",
                severity=severity,  # type: ignore[arg-type]
            )


@check(
    "release.versions",
    "warning",
    why="Two versions run side by side during a deployment, and are tested no further than that.",
)
def versions(answer: Answer) -> Iterator[Found]:
    """Yield that the function has other versions of the library or of Django."""
    there, here = answer.answer.value["versions"], about_this_side()["versions"]
    different = [
        f"{name} {there.get(name)} there and {here[name]} here"
        for name in here
        if _series(there.get(name)) != _series(here[name])
    ]
    if different:
        yield Found(
            f"The function has {', '.join(different)}.",
            "The same on both sides.",
            "Deploy the same release on both sides.",
        )


CHECKS: Final = (answer, tasks, versions)


def _series(version: object) -> str:
    """Return a version up to its second number: patches don't matter."""
    return ".".join(str(version).split(".")[:2])
