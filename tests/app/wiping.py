"""A script, no tasks: to import it is to run it."""

import sys

sys.exit("wiped")
