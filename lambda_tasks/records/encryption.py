"""Secret arguments at rest: encrypted with a key that follows from Django's SECRET_KEY."""

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

UNAVAILABLE: Final = ""
"""Stands in the column where there were secrets, and nothing to encrypt them with."""


def check_available(task_name: str) -> None:
    """Raise ImproperlyConfigured where secrets can't be encrypted."""
    if not is_available():
        raise ImproperlyConfigured(
            f"{task_name} has secret arguments, which are stored encrypted until it has run. "
            "Install lambda-tasks[secrets], or make the task durable=False."
        )


def is_available() -> bool:
    """Whether there is what encrypts secrets."""
    return _fernet() is not None


def encrypt(secrets: Mapping[str, Any]) -> str:
    """Secret arguments, JSON values, as a text that only this project reads."""
    fernet = _fernet()
    if fernet is None:
        return UNAVAILABLE
    encrypted: bytes = fernet.encrypt(json.dumps(secrets).encode())
    return encrypted.decode()


def decrypt(encrypted: str | None) -> dict[str, Any]:
    """What encrypt() was given. Raises ValueError where it was done with another SECRET_KEY."""
    if not encrypted:
        return {}
    fernet = _fernet()
    if fernet is None:
        raise ValueError("cryptography is not installed: install lambda-tasks[secrets]")
    from cryptography.fernet import InvalidToken

    try:
        secrets: dict[str, Any] = json.loads(fernet.decrypt(encrypted))
    except InvalidToken:
        raise ValueError(
            "it was encrypted with another SECRET_KEY; SECRET_KEY_FALLBACKS keeps old ones"
        ) from None
    return secrets


def _fernet() -> Any | None:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        return None
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return MultiFernet([Fernet(_derived(key)) for key in keys])


def _derived(key: str | bytes) -> bytes:
    text = key.encode() if isinstance(key, str) else key
    # The prefix is part of what is stored: rows of earlier releases are read with it.
    return base64.urlsafe_b64encode(hashlib.sha256(b"lambda_tasks.sealing" + text).digest())
