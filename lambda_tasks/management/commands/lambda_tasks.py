"""The command `manage.py lambda_tasks VERB`. `--help` lists the verbs."""

import sys
from argparse import ArgumentParser
from types import ModuleType
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from lambda_tasks.management.verbs import dev, invoke, worker

VERBS: Final[dict[str, ModuleType]] = {"dev": dev, "worker": worker, "invoke": invoke}


class Command(BaseCommand):
    """The command that runs the chosen verb."""

    help = "Runs tasks on a laptop or in containers, and the Lambda handler on one event."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add a subcommand for each verb."""
        commands = parser.add_subparsers(dest="verb", required=True)
        for name, verb in VERBS.items():
            verb.add_arguments(commands.add_parser(name, help=verb.HELP, description=verb.__doc__))

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the verb, and exit with its code. Raises CommandError for bad settings."""
        try:
            code = VERBS[options["verb"]].run(self.stdout, options)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        if code:
            sys.exit(code)
