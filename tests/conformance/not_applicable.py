"""Which of Django's tests say of its own backends what is not so of this one, and why."""

import sys

import django

from .ways import SQS, TESTING, WORKER

BY_DESIGN = {
    "ImmediateBackendTestCase.test_cannot_get_result": "this backend has results",
    "ImmediateBackendTestCase.test_cannot_refresh_result": "this backend has results",
    "ImmediateBackendTestCase.test_cannot_pass_run_after": "this backend supports run_after",
    "DummyBackendTestCase.test_refresh_result": "changes the list in which Django's backend keeps "
    "results; here they are in a table",
    "DummyBackendTestCase.test_refresh_result_async": "the same",
    "TaskTestCase.test_refresh_result": "calls the sync refresh() on an event loop, where Django's "
    "ORM refuses to work",
}

WORDS = "django-tasks says 'async tasks' where Django says 'async Tasks'"
OF_THE_BACKPORT = {
    "DummyBackendTestCase.test_validate_disallowed_async_task": WORDS,
    "CustomBackendTestCase.test_enqueue_async_task_on_non_async_backend": WORDS,
}

OF_PYTHON_3_11 = {
    "CustomBackendTestCase.test_no_enqueue": "expects Python 3.12's words for an abstract class",
}


AFTER_THE_COMMIT = {
    "ImmediateBackendTransactionTestCase.test_doesnt_wait_until_transaction_commit_by_default": (
        "a message leaves after the commit, as `ENQUEUE_ON_COMMIT` is True by default"
    ),
}

LOGS = "looks for the log line of a run in the caller's process; it is in the one that ran the task"
OF_ANOTHER_PROCESS = {
    f"{case}.{test}": LOGS
    for case, tests in {
        "ImmediateBackendTestCase": (
            "test_catches_exception",
            "test_complex_exception",
            "test_complex_return_value",
            "test_enqueue_logs",
            "test_failed_logs",
        ),
        "TaskTestCase": ("test_task_error_invalid_exception", "test_task_error_unknown_module"),
    }.items()
    for test in tests
}

PRIORITIES = "SQS has no priorities, and the call says so"
OF_SQS = dict.fromkeys(
    (
        "TaskTestCase.test_using_priority",
        "TaskTestCase.test_invalid_priority",
        "TaskTestCase.test_chained_using",
    ),
    PRIORITIES,
)

OF_WORKERS = {
    "ImmediateBackendTestCase.test_throws_keyboard_interrupt": (
        "a KeyboardInterrupt ends the process that runs the task, which is not the caller's"
    ),
}


def not_applicable(way: str) -> dict[str, str]:
    """The names of these tests with their reasons, for one of the ways."""
    reasons = dict(BY_DESIGN)
    if django.VERSION < (6, 0):
        reasons |= OF_THE_BACKPORT
    if sys.version_info < (3, 12):
        reasons |= OF_PYTHON_3_11
    if way != TESTING:
        reasons |= AFTER_THE_COMMIT | OF_ANOTHER_PROCESS
    if way == SQS:
        reasons |= OF_SQS
    if way == WORKER:
        reasons |= OF_WORKERS
    return reasons
