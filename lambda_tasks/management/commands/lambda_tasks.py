"""The command `manage.py lambda_tasks VERB`. `--help` lists the verbs."""

import sys
from argparse import ArgumentParser
from types import ModuleType
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from lambda_tasks.errors import (
    ArgumentsMismatch,
    InvalidFilter,
    NotMigrated,
    QueueUnavailable,
    UnknownTask,
)
from lambda_tasks.management import completion
from lambda_tasks.management.changing import INTERRUPTED
from lambda_tasks.management.output import USAGE
from lambda_tasks.management.parsing import djangos_options
from lambda_tasks.management.screen import abandon, escape_the_rest
from lambda_tasks.management.verbs import (
    cancel,
    dev,
    dlq,
    doctor,
    enqueue,
    health,
    invoke,
    listing,
    pause,
    purge,
    queues,
    replay,
    requeue,
    resume,
    retry,
    run,
    schedules,
    show,
    stats,
    tail,
    template,
    tick,
    worker,
    workflows,
)

VERBS: Final[dict[str, ModuleType]] = {
    "dev": dev,
    "worker": worker,
    "invoke": invoke,
    "tick": tick,
    "schedules": schedules,
    "workflows": workflows,
    "stats": stats,
    "health": health,
    "doctor": doctor,
    "list": listing,
    "show": show,
    "tail": tail,
    "enqueue": enqueue,
    "run": run,
    "retry": retry,
    "replay": replay,
    "requeue": requeue,
    "cancel": cancel,
    "purge": purge,
    "template": template,
    "queues": queues,
    "pause": pause,
    "resume": resume,
    "dlq": dlq,
}


class Command(BaseCommand):
    """The command that runs the chosen verb."""

    help = "Runs tasks on a laptop or in containers, shows and steers them, and makes templates."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """See BaseCommand."""
        completion.offer({name: verb.add_arguments for name, verb in VERBS.items()})
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add a subcommand for each verb. Django's own options may stand before and after it."""
        commands = parser.add_subparsers(dest="verb", required=True)
        for name, verb in VERBS.items():
            verb.add_arguments(
                commands.add_parser(
                    name,
                    help=verb.HELP,
                    description=verb.__doc__,
                    formatter_class=parser.formatter_class,
                    parents=[djangos_options()],
                )
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the verb, and exit with its code.

        Raises CommandError for bad settings, without `migrate`, and after an early Ctrl-C.
        """
        escape_the_rest(self.stdout)
        try:
            code = VERBS[options["verb"]].run(self.stdout, options)
            self.stdout.flush()
        except BrokenPipeError:  # of `list | head`, say
            abandon(self.stdout)
            return
        except (ImproperlyConfigured, NotMigrated, QueueUnavailable) as error:
            raise CommandError(str(error)) from None
        except (InvalidFilter, UnknownTask, ArgumentsMismatch) as error:
            raise CommandError(str(error), returncode=USAGE) from None
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=INTERRUPTED) from None
        if code:
            sys.exit(code)
