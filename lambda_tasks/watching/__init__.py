"""What teams watch their systems with, on the public hooks: metrics, traces, error trackers."""

import os
from typing import Final

IN_LAMBDA: Final = "AWS_LAMBDA_RUNTIME_API" in os.environ
