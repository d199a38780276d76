"""The loader of the environment in django-lambda-tasks 0.8.1, deprecated."""

from . import predecessor

__getattr__ = predecessor.finder(
    __name__, {"resolve_environment": "The handler loads them in its cold start."}
)
