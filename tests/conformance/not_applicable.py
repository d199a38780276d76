"""Which of Django's tests say of its own backends what is not so of this one, and why."""

import sys

import django

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

NOT_APPLICABLE = {
    **BY_DESIGN,
    **(OF_THE_BACKPORT if django.VERSION < (6, 0) else {}),
    **(OF_PYTHON_3_11 if sys.version_info < (3, 12) else {}),
}
