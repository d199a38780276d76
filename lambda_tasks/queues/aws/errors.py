"""The meaning of AWS's errors to a sender: why a request failed, and whether to send it again."""

from collections.abc import Mapping
from typing import Any, Final

from ...ports import SendFailure

TRANSIENT_CODES: Final = frozenset(
    {
        "DependencyTimeout",
        "DependencyTimeoutException",
        "InternalError",
        "InternalFailure",
        "KMSInternalException",
        "OverLimit",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "TooManyRequestsException",
    }
)
"""Codes of errors that pass. Those of throttling are known by their names."""

HINTS: Final = {
    "NoCredentialsError": "Give this process a role, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY.",
    "NoRegionError": "Set AWS_DEFAULT_REGION, or region_name in LAMBDA_TASKS_AWS.",
}
"""The fixes of errors whose texts name none, by their types."""


class RequestFailed(Exception):
    """AWS refused a request, or could not be reached.

    `code` is AWS's own; "" where it gave no answer.
    """

    def __init__(self, failure: SendFailure, *, code: str = "") -> None:
        self.failure = failure
        self.code = code
        super().__init__(failure.reason)


def is_transient(code: str) -> bool:
    """Return whether an error's code says that the same request may succeed later.

    A code may have the prefix of another service, as in KMS.ThrottlingException. Some services
    call such an error the sender's fault, and answer 400 or 403.
    """
    name = code.rpartition(".")[2]
    return "throttl" in name.lower() or name in TRANSIENT_CODES


def code_of(error: Exception) -> str:
    """Return the code of an error of botocore; "" for one that is no answer of AWS."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return ""


def failure_of(error: Exception) -> SendFailure:
    """Return the failure of a request, from an error of botocore."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _failure_of_answer(error.response)
    hint = HINTS.get(type(error).__name__)
    reason = f"{str(error).rstrip('.')}. {hint}" if hint else str(error)
    return SendFailure(reason, retryable=_may_pass(error))


def failure_of_entry(entry: Mapping[str, Any]) -> SendFailure:
    """Return the failure of one entry of a batch."""
    code = str(entry.get("Code", "unknown"))
    return SendFailure(
        _reason(code, entry.get("Message")),
        retryable=not entry.get("SenderFault", False) or is_transient(code),
    )


def _failure_of_answer(answer: Mapping[str, Any]) -> SendFailure:
    details = answer.get("Error", {})
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    code = str(details.get("Code", "unknown"))
    # SQS may have two codes for one error: the second is that of its JSON protocol.
    codes = (code, str(details.get("QueryErrorCode", "")))
    return SendFailure(
        _reason(code, details.get("Message")),
        retryable=status >= 500 or status == 429 or any(map(is_transient, codes)),
    )


def _reason(code: str, message: object) -> str:
    return f"{code}: {message}" if message else code


def _may_pass(error: Exception) -> bool:
    """Return whether an error that is no answer of AWS may pass by itself."""
    from botocore import exceptions

    return isinstance(
        error,
        (
            exceptions.HTTPClientError,
            # Connections that are refused or time out, and names that can't be looked up.
            exceptions.ConnectionError,
            exceptions.IncompleteReadError,
            # Credentials come from a service that may be away, too.
            exceptions.NoCredentialsError,
            exceptions.CredentialRetrievalError,
            exceptions.MetadataRetrievalError,
            RuntimeError,  # credentials that have expired when they arrive
        ),
    )
