"""The Django app of the library.

It is a package, because django-lambda-tasks has files of the same names as the library, and
uninstalling it removes these. This one stays. Django imports it first, and it says what is missing.
"""

import logging
import sys
from importlib.util import find_spec
from typing import Any, Final

import django
from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

if not hasattr(sys.modules["lambda_tasks"], "__all__"):
    raise ImproperlyConfigured(
        "The package lambda_tasks is not whole: installing or uninstalling django-lambda-tasks has "
        "replaced or removed files of lambda-tasks. Uninstall django-lambda-tasks, and then "
        "install lambda-tasks again: pip install --force-reinstall --no-deps lambda-tasks"
    )

SERVERS: Final = frozenset({"django.core.asgi", "django.core.wsgi"})
"""The modules with which a web server loads the project. Commands of manage.py do not."""


WORKER: Final = ["lambda_tasks", "worker"]
"""The first arguments of manage.py in a worker."""


class LambdaTasksConfig(AppConfig):
    """The app `lambda_tasks`."""

    name = "lambda_tasks"
    verbose_name = "Lambda tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: Any) -> None:
        super().__init__(app_name, app_module)
        if sys.argv[1:3] == WORKER:
            from ..execution import fork_server

            # It loads the project by itself. Started now, it does so while this process loads it,
            # so that a worker's first sync task waits half as long. The worker ends it if it has
            # no use for it.
            fork_server.prepare()

    def ready(self) -> None:
        """Register the system checks, and the backends where the project sets TASKS.

        Also enables the loggers of the library, and prepares a web server for its first call.
        Raises ImproperlyConfigured under eventlet.
        """
        from .. import checks, console  # noqa: F401
        from ..threads import check_server
        from ..watching import metrics

        check_server()
        metrics.follow_setting()
        # LOGGING without "disable_existing_loggers": False disables every logger that was made
        # before. In a worker process or a function ours are, and failures would be silent.
        for name in ("lambda_tasks", "lambda_tasks.task"):
            logging.getLogger(name).disabled = False
        console.show_lines_if_told()
        framework = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
        if settings.is_overridden("TASKS") and find_spec(framework):  # type: ignore[misc]
            from .. import backends  # noqa: F401 - registers the adapter of Django's tasks
        if not SERVERS.isdisjoint(sys.modules):
            _warm_up()


def _warm_up() -> None:
    from .. import conf, runtime

    if not conf.errors() and conf.current().is_fed_by_aws:
        runtime.current().warm_up()
