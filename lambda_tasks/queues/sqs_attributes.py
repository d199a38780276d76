"""The attributes of an SQS queue as they are, compared with those that it should have.

What is stricter or larger than recommended is left as it is, and so is a dead-letter queue that the
project has chosen itself.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Attributes = Mapping[str, Any]
"""Attributes by their names in SQS, with numbers, truth values and policies as JSON values."""

POLICIES: Final = frozenset({"Policy", "RedrivePolicy", "RedriveAllowPolicy"})


@dataclass(frozen=True, slots=True)
class Difference:
    """An attribute that is not as it should be."""

    attribute: str
    """The attribute's name in SQS."""
    live: Any
    """Its value, a JSON value; None where it has none."""
    wanted: Any
    """The value that puts it right."""


def read(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return attributes as SQS gives them, each a text, as JSON values."""
    return {name: _value(name, text) for name, text in texts.items()}


def differences(recommended: Attributes, live: Attributes) -> list[Difference]:
    """Return the attributes of a queue that differ from the recommended ones."""
    return [
        Difference(name, live.get(name), wanted)
        for name, value in recommended.items()
        if (wanted := _RULES.get(name, _exactly)(value, live.get(name))) is not None
    ]


def kms_key(live: Attributes) -> str | None:
    """Return the KMS key of a queue, which its project has chosen; None for none."""
    return live.get("KmsMasterKeyId") or None


def dead_letter_target(live: Attributes) -> str | None:
    """Return the ARN of a queue's dead-letter queue; None for none."""
    target = (live.get("RedrivePolicy") or {}).get("deadLetterTargetArn")
    return None if target is None else str(target)


def _value(name: str, text: str) -> Any:
    if name in POLICIES or text.isdecimal() or text in ("true", "false"):
        try:
            return json.loads(text)
        except ValueError:  # an empty policy is none
            return text or None
    return text


def _exactly(wanted: Any, live: Any) -> Any:
    return None if live == wanted else wanted


def _at_least(wanted: int, live: Any) -> int | None:
    return None if isinstance(live, int) and live >= wanted else wanted


def _redrive(wanted: dict[str, Any], live: Any) -> dict[str, Any] | None:
    known = live if isinstance(live, dict) else {}
    try:
        count = int(known.get("maxReceiveCount", 0))  # a text, if a console has set it
    except (TypeError, ValueError):
        count = 0
    target = known.get("deadLetterTargetArn")
    if target and count >= wanted["maxReceiveCount"]:
        return None
    return {
        "deadLetterTargetArn": target or wanted["deadLetterTargetArn"],
        "maxReceiveCount": max(count, wanted["maxReceiveCount"]),
    }


def _redrive_allow(wanted: dict[str, Any], live: Any) -> dict[str, Any] | None:
    known = live if isinstance(live, dict) else {}
    if known.get("redrivePermission") != wanted["redrivePermission"]:
        return wanted
    sources = known.get("sourceQueueArns", [])
    missing = [each for each in wanted["sourceQueueArns"] if each not in sources]
    return {**known, "sourceQueueArns": [*sources, *missing]} if missing else None


def _policy(wanted: dict[str, Any], live: Any) -> dict[str, Any] | None:
    """Return a policy with the wanted statements; others' statements stay."""
    if not isinstance(live, dict):
        return wanted
    statements = live.get("Statement", [])
    statements = statements if isinstance(statements, list) else [statements]
    if any(_needs_tls(each) for each in statements if isinstance(each, dict)):
        return None
    ours = {each["Sid"] for each in wanted["Statement"]}
    others = [each for each in statements if each.get("Sid") not in ours]
    return {**live, "Statement": [*others, *wanted["Statement"]]}


def _needs_tls(statement: dict[str, Any]) -> bool:
    """Return whether a statement refuses everybody every action without TLS."""
    conditions = {
        str(key).lower(): value
        for key, value in statement.get("Condition", {}).get("Bool", {}).items()
    }
    values = conditions.get("aws:securetransport", ())
    values = values if isinstance(values, list) else [values]
    actions = statement.get("Action", ())
    actions = [actions] if isinstance(actions, str) else actions
    return (
        statement.get("Effect") == "Deny"
        and statement.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        and any(str(each).lower() in ("sqs:*", "*") for each in actions)
        and any(str(each).lower() == "false" for each in values)
    )


_RULES: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "VisibilityTimeout": _at_least,
    "MessageRetentionPeriod": _at_least,
    "MaximumMessageSize": _at_least,
    "ReceiveMessageWaitTimeSeconds": _at_least,
    "KmsDataKeyReusePeriodSeconds": _at_least,
    "RedrivePolicy": _redrive,
    "RedriveAllowPolicy": _redrive_allow,
    "Policy": _policy,
}
"""The rules of attributes that may be other than recommended, and be right."""
