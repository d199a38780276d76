"""Settings that need what the cold start loads, and tell when they were read."""

import os

from tests.settings import *  # noqa: F403

print("the settings see", os.environ["FROM_ENVIRONMENT"], "and", os.environ["FROM_SECRET"])
