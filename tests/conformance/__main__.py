"""Fetches the tests, puts this backend in the places of Django's, and runs them."""

import argparse
import os
import sys
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
from asgiref.sync import async_to_sync, iscoroutinefunction

from . import ways
from .not_applicable import not_applicable
from .source import fetch

MODULES = ("test_tasks", "test_dummy_backend", "test_immediate_backend", "test_custom_backend")


def main(way: str, archives: str | None) -> int:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.conformance.settings"
    with tempfile.TemporaryDirectory() as directory, ways.prepared(way):
        source = fetch(Path(directory), Path(archives or directory))
        sys.path.insert(0, directory)
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # of the processes that run tasks
        django.setup()
        suite = prepared(way)
        n_tests, n_failures = suite.countTestCases(), run(suite)
        n_applying = n_tests - len(not_applicable(way))
    framework = "Django" if django.VERSION >= (6, 0) else "django-tasks"
    print(f"{source} on {framework}, Django {django.get_version()}, way {way}:")
    print(f"{n_applying} of {n_tests} tests apply; {n_failures} failures")
    return int(n_failures > 0)


def prepared(way: str) -> unittest.TestSuite:
    """Django's tests, with this backend; what does not apply is expected to fail."""
    from django.tasks.backends import dummy, immediate

    from . import backends

    setattr(dummy, "DummyBackend", backends.DummyBackend)  # noqa: B010
    setattr(immediate, "ImmediateBackend", backends.ImmediateBackend)  # noqa: B010
    suite = unittest.defaultTestLoader.loadTestsFromNames([f"tasks.{name}" for name in MODULES])
    reasons = not_applicable(way)
    for test in cases(suite):
        case: Any = type(test)
        case.databases = {"default"}  # results are in a table
        name = f"{case.__name__}.{test._testMethodName}"
        if name in reasons:
            expect_failure(case, test._testMethodName)
            print(f"does not apply: {name}: {reasons.pop(name)}")
    if reasons:
        raise SystemExit(f"There are no such tests: {', '.join(sorted(reasons))}")
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
        ways.close()
        runner.teardown_databases(databases)
        runner.teardown_test_environment()
    return len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("way", nargs="?", choices=ways.WAYS, default=ways.TESTING)
    parser.add_argument("--archives", help="a directory that keeps what was downloaded")
    arguments = parser.parse_args()
    sys.exit(main(arguments.way, arguments.archives))
