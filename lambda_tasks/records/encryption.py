"""Encryption of secret arguments at rest. Each value is bound to its record and its parameter.

A value that is copied to another record or parameter can't be decrypted there. So somebody who can
write to the table can't make a task reveal the secret of another one.
"""

import base64
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured

from ..core.lifecycle import KEEP_SECRETS_S
from . import settings

SECRETS_KEYS: Final = "LAMBDA_TASKS_SECRETS_KEYS"
ENCRYPT_ARGUMENTS: Final = "LAMBDA_TASKS_ENCRYPT_ARGUMENTS"
KEEP_SECRETS: Final = "LAMBDA_TASKS_KEEP_SECRETS"
"""Names of settings."""

UNAVAILABLE: Final = ""
"""The value of the column `secrets` where secrets could not be encrypted, and so are not stored."""

NONCE_BYTES: Final = 12
"""Bytes of the random nonce of each value (NIST SP 800-38D, section 8.2). One key is safe for 2**32
random nonces."""

ENCRYPTED_RESULT_KEY: Final = "lambda_tasks.encrypted"
"""The only key of the JSON object that an encrypted result is stored as."""

FERNET_PREFIX: Final = "gAAAA"
"""The first characters of secrets that 1.0.0.dev0 encrypted, with a key derived from SECRET_KEY."""


def check_available(task_name: str) -> None:
    """Raise ImproperlyConfigured where secrets can't be encrypted."""
    if not is_available():
        raise ImproperlyConfigured(
            f"{task_name} has secret arguments, which must be stored encrypted until it has run, "
            "but cryptography is not installed. Install lambda-tasks[secrets], or declare the task "
            "with durable=False."
        )


def is_available() -> bool:
    """Return whether secrets can be encrypted: whether cryptography is installed."""
    try:
        from cryptography.hazmat.primitives.ciphers import aead  # noqa: F401
    except ImportError:
        return False
    return True


def encrypts_all() -> bool:
    """Return whether all arguments and results are encrypted, not only the secret arguments."""
    return bool(settings.read(ENCRYPT_ARGUMENTS, False))


def secrets_retention() -> timedelta | None:
    """Return how long the record of a failed run keeps its secrets; None for not at all."""
    return timedelta(seconds=settings.read(KEEP_SECRETS, KEEP_SECRETS_S)) or None


def encrypt(secrets: Mapping[str, Any], *, id: UUID) -> str:
    """Encrypt secret arguments for the record `id`; return the text of its column `secrets`.

    Returns UNAVAILABLE where cryptography is not installed.
    """
    if not is_available():
        return UNAVAILABLE
    key = _keys()[0]
    values = {
        name: _encrypt(key, json.dumps(secrets[name]), _associated_data(id, name))
        for name in secrets
    }
    return json.dumps({"key": _key_id(key), "values": values}, separators=(",", ":"))


def decrypt(encrypted: str | None, *, id: UUID) -> dict[str, Any]:
    """Decrypt the secret arguments of the record `id`.

    Raises ValueError, with the reason, where they can't be decrypted.
    """
    if not encrypted:
        return {}
    if not is_available():
        raise ValueError("cryptography is not installed: install lambda-tasks[secrets]")
    if encrypted.startswith(FERNET_PREFIX):
        return _decrypt_fernet(encrypted)
    content = json.loads(encrypted)
    key = next((key for key in _keys() if _key_id(key) == content["key"]), None)
    if key is None:
        raise ValueError(
            "it was encrypted with an unknown key: keep old keys in LAMBDA_TASKS_SECRETS_KEYS, or "
            "in SECRET_KEY_FALLBACKS where they are derived from SECRET_KEY"
        )
    return {
        name: json.loads(_decrypt(key, value, _associated_data(id, name)))
        for name, value in content["values"].items()
    }


def encrypt_result(result: Any, *, id: UUID, is_secret: bool = False) -> Any:
    """Return a result as its record keeps it: encrypted if the settings say so, or it is secret."""
    if result is None or not (is_secret or encrypts_all()):
        return result
    return {ENCRYPTED_RESULT_KEY: encrypt({"result": result}, id=id)}


def decrypt_result(kept: Any, *, id: UUID) -> Any:
    """Return the result that a record keeps, decrypted if need be.

    Raises ValueError, with the record and the reason, where it can't be decrypted.
    """
    if not is_encrypted(kept):
        return kept
    try:
        return decrypt(kept[ENCRYPTED_RESULT_KEY], id=id)["result"]
    except ValueError as error:
        raise ValueError(f"The result of the record {id} can't be decrypted: {error}.") from error


def is_encrypted(kept: Any) -> bool:
    """Return whether a result is kept encrypted."""
    return isinstance(kept, dict) and kept.keys() == {ENCRYPTED_RESULT_KEY}


def _encrypt(key: str, text: str, associated_data: bytes) -> str:
    nonce = os.urandom(NONCE_BYTES)
    return base64.b64encode(
        nonce + _cipher(key).encrypt(nonce, text.encode(), associated_data)
    ).decode()


def _decrypt(key: str, value: str, associated_data: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag

    data = base64.b64decode(value)
    try:
        text: bytes = _cipher(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], associated_data)
    except InvalidTag:
        raise ValueError("it was altered, or copied from another record or parameter") from None
    return text


def _associated_data(id: UUID, name: str) -> bytes:
    return f"{id}\n{name}".encode()


def _keys() -> list[str]:
    """Return all keys for decryption; the first one encrypts."""
    return [*settings.read(SECRETS_KEYS, ()), *_keys_of_django()]


def _keys_of_django() -> list[str]:
    keys = (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS)
    return [key.decode(errors="surrogateescape") if isinstance(key, bytes) else key for key in keys]


@lru_cache(maxsize=64)
def _cipher(key: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_derive_key(key, b"lambda_tasks secrets", length=32))


@lru_cache(maxsize=64)
def _key_id(key: str) -> str:
    """Return an id that tells keys apart and reveals nothing about them."""
    return _derive_key(key, b"lambda_tasks secrets, key id", length=8).hex()


def _derive_key(key: str, purpose: bytes, *, length: int) -> bytes:
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
            "it was encrypted with another SECRET_KEY: keep old ones in SECRET_KEY_FALLBACKS"
        ) from None
    return secrets
