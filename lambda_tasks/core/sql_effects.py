"""The effects of SQL statements on their transaction and their session, judged by their text."""

import re
from typing import Final

_TRANSACTION_STATEMENT: Final = re.compile(
    r"""
    (?: [\s(;] | --[^\n]*\n | /\*.*?\*/ )*
    (?: (?P<begin> begin | start \s+ transaction )
      | commit | end | abort | prepare \s+ transaction
      | rollback (?! (?:\s+work|\s+transaction)? \s+to\b ) )\b
    """,
    re.VERBOSE | re.DOTALL,
)
"""A statement, in lower case, that begins or ends a transaction; not one about a savepoint."""

_SESSION_STATEMENT: Final = re.compile(
    r"""
    (?: [\s(;] | --[^\n]*\n | /\*.*?\*/ )*
    (?: set \s+ (?! (?:local|constraints|transaction)\b )
      | (?: reset | discard | listen | load | prepare (?! \s+transaction) | use | attach ) \s
      | lock \s+ tables? \s .* \b (?:read|write) \b
      | declare \s .* \b with \s+ hold \b
      | create \s+ (?:or\s+replace\s+)? (?:global\s+|local\s+)? temp(?:orary)? \b
        (?! .* \b on \s+ commit \s+ drop \b)
      | pragma \s [^(]* = )
    """,
    re.VERBOSE | re.DOTALL,
)
"""A statement, in lower case, whose effect on the session outlives the transaction."""

_SESSION_PART: Final = re.compile(
    r"""
    \b (?: pg_(?:try_)?advisory_lock(?:_shared)? | get_lock ) \s* \(
    | \b into \s+ temp(?:orary)? \b
    | \b set_config \s* \( (?! [^()]* , \s* (?:true|'t(?:rue)?') \s* \) )
    """,
    re.VERBOSE,
)
"""A part of a statement, in lower case, whose effect on the session outlives the transaction."""

_ROLLBACK: Final = re.compile(
    r"(?: [\s(;] | --[^\n]*\n | /\*.*?\*/ )* (?:rollback|abort)\b", re.VERBOSE | re.DOTALL
)
"""A statement, in lower case, that rolls back the transaction, or a part of it."""

_RELEASE: Final = re.compile(
    r"(?: [\s(;] | --[^\n]*\n | /\*.*?\*/ )* release\b", re.VERBOSE | re.DOTALL
)
"""A statement, in lower case, that ends a savepoint and keeps what was done since."""

MAX_SHOWN_CHARS: Final = 60
"""The most characters of a statement in a message."""


def begins_or_ends_transaction(text: str) -> bool | None:
    """Return True for a statement, in lower case, that begins a transaction, False if it ends one.

    Return None for any other statement.
    """
    found = _TRANSACTION_STATEMENT.match(text)
    return None if found is None else found["begin"] is not None


def is_rollback(text: str) -> bool:
    """Return whether a statement, in lower case, rolls back the transaction or a part of it."""
    return _ROLLBACK.match(text) is not None


def is_release(text: str) -> bool:
    """Return whether a statement, in lower case, ends a savepoint and keeps what came after it."""
    return _RELEASE.match(text) is not None


def changes_session(text: str) -> bool:
    """Return whether statements, in lower case, change the session beyond their transaction."""
    statements = text.split(";") if ";" in text else [text]
    for each in statements:
        if _SESSION_STATEMENT.match(each):
            return True
    # The regular expression alone would take ten times as long.
    has_part = "_lock" in text or "set_config" in text or " temp" in text
    return has_part and bool(_SESSION_PART.search(text))


def shown(text: str) -> str:
    """Return the start of a statement, for a message, up to the first literal."""
    shown = " ".join(text.partition("'")[0].split())
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}..."
