"""Secret arguments at rest: encrypted, each bound to its record and its parameter.

What is copied to another record, or to another parameter, can't be read there: who can write to the
table can't have a task show somebody else's secret.
"""

import base64
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..core.lifecycle import KEEP_SECRETS_S

SECRETS_KEYS: Final = "LAMBDA_TASKS_SECRETS_KEYS"
ENCRYPT_ARGUMENTS: Final = "LAMBDA_TASKS_ENCRYPT_ARGUMENTS"
KEEP_SECRETS: Final = "LAMBDA_TASKS_KEEP_SECRETS"
"""Settings that `conf` checks; it stands above the records."""

UNAVAILABLE: Final = ""
"""Stands in the column where there were secrets, and nothing to encrypt them with."""

NONCE_BYTES: Final = 12
"""What AES-GCM takes for each value (NIST SP 800-38D, section 8.2). A random one: a key is good for
2**32 of them."""

RESULT: Final = "lambda_tasks.encrypted"
"""The one key of an encrypted result, which is JSON as any other is."""

FERNET: Final = "gAAAA"
"""The beginning of what 1.0.0.dev0 has encrypted, with a key that followed from SECRET_KEY."""


def check_available(task_name: str) -> None:
    """Raise ImproperlyConfigured where secrets can't be encrypted."""
    if not is_available():
        raise ImproperlyConfigured(
            f"{task_name} has secret arguments, which are stored encrypted until it has run. "
            "Install lambda-tasks[secrets], or make the task durable=False."
        )


def is_available() -> bool:
    """Whether there is what encrypts secrets."""
    try:
        from cryptography.hazmat.primitives.ciphers import aead  # noqa: F401
    except ImportError:
        return False
    return True


def encrypts_all() -> bool:
    """Whether all arguments and results are encrypted, and not only those that are secret."""
    return bool(getattr(settings, ENCRYPT_ARGUMENTS, False))


def kept_for() -> timedelta | None:
    """For how long a failed run keeps its secrets; None where it does not."""
    return timedelta(seconds=getattr(settings, KEEP_SECRETS, KEEP_SECRETS_S)) or None


def encrypt(secrets: Mapping[str, Any], *, id: UUID) -> str:
    """Secret arguments, JSON values, as a text that only this project reads, in this record."""
    if not is_available():
        return UNAVAILABLE
    key = _keys()[0]
    values = {name: _encrypt(key, json.dumps(secrets[name]), _place(id, name)) for name in secrets}
    return json.dumps({"key": _key_id(key), "values": values}, separators=(",", ":"))


def decrypt(encrypted: str | None, *, id: UUID) -> dict[str, Any]:
    """What encrypt() was given for this record. Raises ValueError, with the reason, where it can't
    be read."""
    if not encrypted:
        return {}
    if not is_available():
        raise ValueError("cryptography is not installed: install lambda-tasks[secrets]")
    if encrypted.startswith(FERNET):
        return _decrypt_fernet(encrypted)
    content = json.loads(encrypted)
    key = next((key for key in _keys() if _key_id(key) == content["key"]), None)
    if key is None:
        raise ValueError(
            "it was encrypted with another key; LAMBDA_TASKS_SECRETS_KEYS keeps old ones, and "
            "SECRET_KEY_FALLBACKS where keys follow from SECRET_KEY"
        )
    return {
        name: json.loads(_decrypt(key, value, _place(id, name)))
        for name, value in content["values"].items()
    }


def encrypt_result(result: Any, *, id: UUID) -> Any:
    """A result as its record keeps it: encrypted where the settings ask for it."""
    if result is None or not encrypts_all():
        return result
    return {RESULT: encrypt({"result": result}, id=id)}


def decrypt_result(kept: Any, *, id: UUID) -> Any:
    """What encrypt_result() was given for this record. Raises ValueError as decrypt() does."""
    if not isinstance(kept, dict) or kept.keys() != {RESULT}:
        return kept
    return decrypt(kept[RESULT], id=id)["result"]


def _encrypt(key: str, text: str, place: bytes) -> str:
    nonce = os.urandom(NONCE_BYTES)
    return base64.b64encode(nonce + _cipher(key).encrypt(nonce, text.encode(), place)).decode()


def _decrypt(key: str, value: str, place: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    data = base64.b64decode(value)
    try:
        text: bytes = _cipher(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], place)
    except InvalidTag:
        raise ValueError("it was altered, or comes from another record or parameter") from None
    return text


def _place(id: UUID, name: str) -> bytes:
    return f"{id}\n{name}".encode()


def _keys() -> list[str]:
    """All that decrypt, of which the first encrypts."""
    return [*getattr(settings, SECRETS_KEYS, ()), *_keys_of_django()]


def _keys_of_django() -> list[str]:
    keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return [key.decode(errors="surrogateescape") if isinstance(key, bytes) else key for key in keys]


@lru_cache(maxsize=64)
def _cipher(key: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_derived(key, b"lambda_tasks secrets", length=32))


@lru_cache(maxsize=64)
def _key_id(key: str) -> str:
    """Tells keys apart, and nothing about them."""
    return _derived(key, b"lambda_tasks secrets, key id", length=8).hex()


def _derived(key: str, purpose: bytes, *, length: int) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derivation = HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose)
    return derivation.derive(key.encode(errors="surrogateescape"))


def _decrypt_fernet(encrypted: str) -> dict[str, Any]:
    import hashlib

    from cryptography.fernet import Fernet, InvalidToken, MultiFernet

    digests = (
        hashlib.sha256(b"lambda_tasks.sealing" + key.encode(errors="surrogateescape")).digest()
        for key in _keys_of_django()
    )
    keys = [Fernet(base64.urlsafe_b64encode(digest)) for digest in digests]
    try:
        secrets: dict[str, Any] = json.loads(MultiFernet(keys).decrypt(encrypted))
    except InvalidToken:
        raise ValueError(
            "it was encrypted with another SECRET_KEY; SECRET_KEY_FALLBACKS keeps old ones"
        ) from None
    return secrets
