import importlib
import os

from django.apps import AppConfig


class TestsConfig(AppConfig):
    name = "tests.app"

    def ready(self) -> None:
        if "TESTS_IMPORT" in os.environ:
            importlib.import_module(os.environ["TESTS_IMPORT"])
        if "TESTS_CONNECT_AT_START" in os.environ:
            from django.db import connection

            connection.ensure_connection()
            print("connected at its start")
