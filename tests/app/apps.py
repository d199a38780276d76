import os

from django.apps import AppConfig


class TestsConfig(AppConfig):
    name = "tests.app"

    def ready(self) -> None:
        if "TESTS_CONNECT_AT_START" in os.environ:
            from django.db import connection

            connection.ensure_connection()
            print("connected at its start")
