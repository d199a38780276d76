"""The settings of django-lambda-tasks 0.8.1, deprecated. `django.conf.settings` has them."""

from . import predecessor

_CONSTANT = "Write the number."

__getattr__ = predecessor.finder(
    __name__,
    {
        "LambdaTasksSettings": "Read django.conf.settings.",
        "MAX_DELAY": _CONSTANT,
        "MAX_TIMEOUT": _CONSTANT,
        "MAX_BATCH_TIMEOUT": _CONSTANT,
    },
)
