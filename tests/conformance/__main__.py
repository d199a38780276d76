"""Fetches the tests, puts this backend in the places of Django's, and runs them."""

import os
import sys
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
from asgiref.sync import async_to_sync, iscoroutinefunction

MODULES = ("test_tasks", "test_dummy_backend", "test_immediate_backend", "test_custom_backend")


def main() -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.conformance.settings"
    with tempfile.TemporaryDirectory() as directory:
        from .source import fetch

        source = fetch(Path(directory))
        sys.path.insert(0, directory)
        django.setup()
        failures = run(prepared())
    framework = "Django" if django.VERSION >= (6, 0) else "django-tasks"
    print(f"{source} on {framework}, Django {django.get_version()}: {failures} failures")
    return int(failures > 0)


def prepared() -> unittest.TestSuite:
    """Django's tests, with this backend; what does not apply is expected to fail."""
    if django.VERSION < (6, 0):
        from .backport import install

        install()
    from django.tasks.backends import dummy, immediate

    from . import backends
    from .not_applicable import NOT_APPLICABLE

    setattr(dummy, "DummyBackend", backends.DummyBackend)  # noqa: B010
    setattr(immediate, "ImmediateBackend", backends.ImmediateBackend)  # noqa: B010
    suite = unittest.defaultTestLoader.loadTestsFromNames([f"tasks.{name}" for name in MODULES])
    unknown = set(NOT_APPLICABLE)
    for test in cases(suite):
        case: Any = type(test)
        case.databases = {"default"}  # results are in a table
        name = f"{case.__name__}.{test._testMethodName}"
        if name in NOT_APPLICABLE:
            unknown.remove(name)
            expect_failure(case, test._testMethodName)
            print(f"does not apply: {name}: {NOT_APPLICABLE[name]}")
    if unknown:
        raise SystemExit(f"There are no such tests: {', '.join(sorted(unknown))}")
    return suite


def expect_failure(case: Any, name: str) -> None:
    test = getattr(case, name)
    if iscoroutinefunction(test):
        original = test

        def test(self: Any) -> None:
            async_to_sync(original)(self)

    setattr(case, name, unittest.expectedFailure(test))


def cases(suite: Any) -> Iterator[Any]:
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from cases(each)
        else:
            yield each


def run(suite: unittest.TestSuite) -> int:
    from django.test.runner import DiscoverRunner

    runner = DiscoverRunner(verbosity=1, interactive=False)
    runner.setup_test_environment()
    databases = runner.setup_databases(serialized_aliases=set())
    try:
        result: Any = runner.run_suite(suite)
    finally:
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
    return len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)


if __name__ == "__main__":
    sys.exit(main())
