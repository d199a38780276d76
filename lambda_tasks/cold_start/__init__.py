"""The start of a process in AWS, before Django is set up."""

from .environment_loader import load_environment
from .parameter_loader import load_parameters
from .secret_loader import load_secrets


def set_up() -> None:
    """Load the environment, then parameters, then single secrets, then Django.

    A second call after a failure continues. Raises ValueError for a malformed reference or secret
    and for variables that are set twice, SecretUnavailable where AWS does not return one, and
    whatever the project raises.
    """
    # Each step may need the one before: the environment may refer to parameters and single
    # secrets, and settings read all of them.
    load_environment()
    load_parameters()
    load_secrets()
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()
