"""Stands first among the apps, so that Django's tasks exist before a task is loaded."""

import django
from django.apps import AppConfig


class ConformanceConfig(AppConfig):
    name = "tests.conformance"

    def ready(self) -> None:
        if django.VERSION < (6, 0):
            from .backport import install

            install()
