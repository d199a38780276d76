"""The loader of single secrets in django-lambda-tasks 0.8.1, deprecated."""

from . import predecessor

__getattr__ = predecessor.finder(
    __name__, {"resolve_secrets_into_env": "The handler loads them in its cold start."}
)
