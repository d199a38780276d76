"""Django's command line for the bookshop."""

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")
    is_complete = "BOOKSHOP_QUEUE_URL" in os.environ
    if sys.argv[1:2] != ["demo"] or "--help" in sys.argv or is_complete:
        execute_from_command_line(sys.argv)
        return
    # The demo brings a database and an SQS of its own, if none is given; settings are read then.
    from demo.world import World

    with World():
        execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
