"""What happens before Django is set up, where a process starts in AWS."""

from .environment_loader import load_environment
from .secret_loader import load_secrets


def set_up() -> None:
    """Load environment and secrets, then Django; in this order, as each may need what came before.

    Called again after a failure it goes on. Raises ValueError and SecretUnavailable for what the
    environment refers to, and whatever the project raises.
    """
    load_environment()
    load_secrets()
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()
