"""The message envelope, encoded as an SQS body and decoded again.

A body is compact JSON. Keys with their default value are left out. Keys of later releases are
ignored. A body of a later format version waits for a newer release. A key that must not be ignored
needs a new version.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, NoReturn, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

from ..errors import MessageRefused, MessageTooLarge, NewerFormat
from .graphs import Place
from .lifecycle import SQS_TERMS, LookTerms
from .pickling import pickled_by_position
from .quick import quick_dataclass
from .redaction import REDACTED
from .unique import OnConflict, UniqueKey

FORMAT_VERSION: Final = 1

MAX_NAME: Final = 255
"""The most characters of a task's name, and of a queue's name; the record's columns allow these."""

MAX_BACKEND: Final = 255
"""The most characters of the alias of a django.tasks backend; the record's column allows these."""

MAX_GROUP_KEY: Final = 128
"""The most characters of a MessageGroupId (SendMessage, Amazon SQS API reference)."""

GROUP_KEY_PATTERN: Final = re.compile(rf"[!-~]{{1,{MAX_GROUP_KEY}}}")
"""What SQS takes for a MessageGroupId: ASCII letters, digits and punctuation."""

PRIORITIES: Final = range(-100, 101)
"""The priorities from low to high, for queues that have them: the range of django.tasks."""

MAX_HEADERS_BYTES: Final = 4096
"""The most bytes of a call's headers, as JSON: they are in every row, and in direct messages."""

MAX_DEPTH: Final = 100
"""The most levels of nested lists and objects, including the body's own two.

pydantic reads at most 255 levels, and databases more.
"""

KEEP_ARGUMENTS_HEADER: Final = "lambda_tasks.keep_arguments"
"""The header of calls whose arguments go with the end of the run: it is False. In a header it is in
the record, so that whoever ends the run knows it, without the task."""

CALL_HEADER: Final = "lambda_tasks.durable"
"""The header of a durable function's runs, with the id of the call that they belong to."""

UNDO_HEADER: Final = "lambda_tasks.undo"
"""The header of a run that executes the compensations of a durable function, which has ended."""

UNDONE_HEADER: Final = "lambda_tasks.undone"
"""The header of a durable function's runs with the number of times that it was undone before."""

YEARS: Final = range(1970, 9000)
"""The years that a time may be in. Close to the ends of the calendar, time zones overflow."""

OPTIONAL_KEYS: Final = (
    "args",
    "backend",
    "n_continues",
    "queue",
    "durable",
    "group_key",
    "priority",
    "headers",
)
"""The keys of a body that are left out where they hold their default."""

_optional_values: Final[Callable[["Message"], tuple[Any, ...]]] = attrgetter(*OPTIONAL_KEYS)

# One encoder for all calls: json.dumps() creates a new one for each call with special options.
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)

_NOT_IN_SQS: Final = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}
"""Characters that SQS refuses in a body and JSON leaves as they are, with their escapes."""

T = TypeVar("T")


@pickled_by_position
@quick_dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The request for one run of a task."""

    task_name: str
    """Dotted name of the task, up to MAX_NAME characters."""
    kwargs: dict[str, Any] = field(repr=False)
    """Arguments by name, as JSON values."""
    invocation_id: UUID
    args: tuple[Any, ...] = field(default=(), repr=False)
    """Positional arguments, as JSON values; only for tasks of django.tasks."""
    backend: str | None = None
    """Alias of the backend in TASKS; only for tasks of django.tasks."""
    n_retries: int = 0
    """Number of retries before this run, 0 to 32,767."""
    n_continues: int = 0
    """Number of runs that this one continues, 0 to 32,767."""
    queue: str | None = None
    """Name of the queue; None for the task's own queue."""
    durable: bool = False
    """Whether a QUEUED record was stored with the message. If so, the body is only a wake-up, and
    the record says what runs."""
    run_after: datetime | None = None
    """Time before which the task must not run; None for none."""
    group_key: str | None = None
    """MessageGroupId, up to MAX_GROUP_KEY characters."""
    priority: int = 0
    """Priority from PRIORITIES; higher ones run first."""
    root_id: UUID | None = None
    """Id of the first invocation that this one follows from."""
    retry_of: UUID | None = None
    """Id of the invocation directly before this one."""
    headers: dict[str, Any] = field(default_factory=dict)
    """The call's headers, as JSON values, up to MAX_HEADERS_BYTES."""
    expires_at: datetime | None = None
    """Time from which on the task must not begin; None for none."""
    unique: UniqueKey | None = field(default=None, compare=False)
    """The unique key that the record holds; not part of the body."""
    place: Place | None = field(default=None, compare=False)
    """The place in a workflow; None outside of one. Not part of the body."""
    secret: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of the secret arguments; not part of the body."""
    has_arguments: bool = field(default=True, compare=False)
    """Whether the message has arguments; an arrived wake-up has none, but its record does."""
    keeps_arguments: bool = field(default=False, compare=False)
    """Whether the body of a durable message has the arguments, because its record can't keep its
    secrets."""

    @property
    def group(self) -> str:
        """The MessageGroupId on a FIFO queue: messages of one group keep their order."""
        return group_of(self.group_key, self.task_name)

    @property
    def drops_arguments(self) -> bool:
        """Whether the record has no arguments any more once the run has ended."""
        return self.headers.get(KEEP_ARGUMENTS_HEADER) is False

    @property
    def call_id(self) -> UUID | None:
        """The call of a durable function that compensations may follow; None for others."""
        headers = self.headers
        if CALL_HEADER not in headers or UNDO_HEADER in headers:
            return None
        return UUID(headers[CALL_HEADER])

    @property
    def redacted_kwargs(self) -> dict[str, Any]:
        """The arguments by name, with the secret ones redacted."""
        if not self.secret:
            return self.kwargs
        return self.kwargs | dict.fromkeys(self.secret & self.kwargs.keys(), REDACTED)

    @property
    def secret_kwargs(self) -> dict[str, Any]:
        """The secret arguments by name."""
        if not self.secret:
            return {}
        return {name: self.kwargs[name] for name in self.secret & self.kwargs.keys()}

    def encode(self) -> str:
        """Return the SQS body: a wake-up if the message is durable, else all of it.

        A durable message whose record can't keep its secrets has a full body, too. Raises
        ValueError for values that JSON, SQS or a database can't hold.
        """
        if self.durable and not self.keeps_arguments:
            return self._encode_wake_up()
        body: dict[str, Any] = {
            "task_name": self.task_name,
            "kwargs": self.kwargs,
            "n_retries": self.n_retries,
            "invocation_id": str(self.invocation_id),
        }
        if any(values := _optional_values(self)):
            body |= {key: value for key, value in zip(OPTIONAL_KEYS, values, strict=True) if value}
        if self.run_after is not None:
            body["run_after"] = self.run_after.isoformat()
        if self.expires_at is not None:
            body["expires_at"] = self.expires_at.isoformat()
        return encode_json(body, what=f"the arguments of {self.task_name}")

    def _encode_wake_up(self) -> str:
        """Return a body that names the record and repeats none of its contents."""
        before, after = _around_id(self.task_name, self.backend)
        return f"{before}{self.invocation_id}{after}"

    def encode_arguments(self) -> str:
        """Return the arguments as JSON, as a record keeps them.

        Raises ValueError for values that JSON or a database can't hold.
        """
        return encode_json([self.args, self.kwargs], what=f"the arguments of {self.task_name}")

    def matches_record(self, record: "Message") -> bool:
        """Return whether the message has the same task, and arguments if any, as its record."""
        if (self.task_name, self.backend) != (record.task_name, record.backend):
            return False
        if not self.has_arguments:
            return True
        record = record.without_results()
        return _are_same([self.args, self.kwargs], [record.args, record.kwargs])

    def without_results(self) -> "Message":
        """Return the message without the arguments that are results of other steps.

        They are read at each claim, and are in no record and no message.
        """
        if self.place is None or not self.place.inputs:
            return self
        inputs = self.place.inputs
        return replace(
            self,
            kwargs={name: value for name, value in self.kwargs.items() if name not in inputs},
            args=tuple(
                None if str(index) in inputs else each for index, each in enumerate(self.args)
            ),
        )


@quick_dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way to a queue."""

    message: Message
    body: str = field(repr=False)
    """The encoded message, not signed yet."""
    queue: str
    """Name of the queue in LAMBDA_TASKS_QUEUES."""
    delay_s: int = 0
    """Seconds before the queue delivers the message."""
    enqueued_at: datetime | None = None
    """Time of the call; None for the current time of the database's clock."""
    look: LookTerms = SQS_TERMS
    """The look terms of the queue."""
    waits: bool = False
    """Whether the message waits in its row until the relay sends it, because it is due later than
    its queue can delay it."""
    on_conflict: OnConflict = "return"
    """What the call does if another one holds its unique key."""
    is_parked: bool = False
    """Whether it is a run of a durable function that waits until something wakes it."""
    is_follow_up: bool = False
    """Whether it is a retry, a further run or a copy.

    The library limits the number of those itself. So they are sent without the header with which
    Lambda's recursive loop detection counts the steps of a loop.
    """


def decode(body: object, *, fallback_id: UUID) -> Message:
    """Decode a body; use `fallback_id` where an older sender named no invocation id.

    Raises MessageRefused, with the reason and without the body, for a body that can't be decoded;
    NewerFormat for one of a later format version.
    """
    if not isinstance(body, str):
        raise MessageRefused(f"The body is a {type(body).__name__}, not a JSON text.")
    content = _parse(body)
    version = content.get("v")
    if version is not None and _read_int("v", version) > FORMAT_VERSION:
        raise NewerFormat(
            f"The body has format version {min(version, 999)}, and this release reads versions up "
            f"to {FORMAT_VERSION}."
        )
    fields = {
        key: read(key, value)
        for key, value in content.items()
        if value is not None and (read := READERS.get(key)) is not None
    }
    for key in ("task_name",) if fields.get("durable") else ("task_name", "kwargs"):
        if key not in fields:
            raise MessageRefused(f"The body has no {key!r}.")
    missing: dict[str, Any] = {"kwargs": {}, "invocation_id": fallback_id}
    return Message(**(missing | fields), has_arguments="kwargs" in fields)


def as_stored(body: str, id: UUID) -> str:
    """Return the body of a direct message as one that has a record, with this id.

    It keeps all keys: those that this release does not know may be a later release's.
    """
    content = json.loads(body) | {"invocation_id": str(id), "durable": True}
    return encode_json(content, what="the body of a message that is sent again")


@lru_cache(maxsize=1024)
def _around_id(task_name: str, backend: str | None) -> tuple[str, str]:
    """Return a wake-up's text before and after its invocation id: the same for each call."""
    body: dict[str, Any] = {"task_name": task_name, "invocation_id": "", "durable": True}
    if backend is not None:
        body["backend"] = backend
    text = encode_json(body, what=f"the name of {task_name}")
    before, after = text.split(key := '"invocation_id":"')
    return before + key, after


def _are_same(first: Any, second: Any) -> bool:
    """Return whether JSON values are equal, up to the precision of numbers in a database.

    PostgreSQL returns 1.5e300 as a whole number of 301 digits, for example.
    """
    if first == second:
        return True
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(
            _are_same(value, second[key]) for key, value in first.items()
        )
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_are_same, first, second))
    if isinstance(first, int | float) and isinstance(second, int | float):
        return _are_close(first, second)
    return False


def _are_close(first: float, second: float) -> bool:
    try:
        return math.isclose(first, second, rel_tol=1e-15)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def group_of(group_key: str | None, task_name: str) -> str:
    """Return the MessageGroupId of a message with this group key and task."""
    if group_key or task_name.isascii():
        return group_key or task_name[:MAX_GROUP_KEY]
    # SQS takes no other letters, which a Python name may have.
    return f"task-{hashlib.sha256(task_name.encode()).hexdigest()}"


def size_bytes(text: str) -> int:
    """Return the size of a text in UTF-8, which is what SQS counts."""
    return len(text) if text.isascii() else len(text.encode())


def invocation_id_of(delivery_id: str) -> UUID:
    """Return an invocation id derived from a queue's id of a delivery, the same one each time."""
    try:
        return UUID(delivery_id)
    except ValueError:
        return uuid5(NAMESPACE_OID, ascii(delivery_id))


def encode_json(value: object, *, what: str) -> str:
    """Encode a value as compact JSON that SQS and every database accept.

    `what` starts the error's sentence. Raises ValueError for NaN and infinities (not in JSON), NUL
    (PostgreSQL refuses it), lone surrogates (not in UTF-8), and values that are nested too deeply.
    """
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise ValueError(f"{what}: nested too deeply for JSON.") from None
    except ValueError as error:
        raise ValueError(f"{what}: {error}. JSON has no NaN and no infinities.") from None
    # JSON escapes NUL, and no surrogate is ASCII: most messages skip the walk through all strings.
    if "\\u" in text or not text.isascii():
        check_text(value, what=what)
        text = text.translate(_NOT_IN_SQS)
    if _may_be_deep(text) and _is_deeper(value, MAX_DEPTH):
        raise ValueError(f"{what}: nested more than {MAX_DEPTH} levels deep.")
    return text


def _may_be_deep(text: str) -> bool:
    """Return whether JSON has enough brackets to be too deep; most has not, and skips the walk."""
    return text.count("[") + text.count("{") > MAX_DEPTH


def _is_deeper(value: object, levels: int) -> bool:
    if isinstance(value, dict):
        return levels == 0 or any(_is_deeper(each, levels - 1) for each in value.values())
    if isinstance(value, list | tuple):
        return levels == 0 or any(_is_deeper(each, levels - 1) for each in value)
    return False


def check_text(value: object, *, what: str) -> None:
    """Raise ValueError where a string in `value`, at any depth, holds NUL or a lone surrogate."""
    for text in _strings(value):
        if "\x00" in text:
            raise ValueError(f"{what}: a string holds the NUL character, which databases refuse.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{what}: a string holds a lone surrogate, which is not valid text."
            ) from None


def check_size(body: str, *, task_name: str, limit_bytes: int) -> None:
    """Raise MessageTooLarge where a body is over its queue's limit."""
    if (size := size_bytes(body)) > limit_bytes:
        raise MessageTooLarge(task_name=task_name, size_bytes=size, limit_bytes=limit_bytes)


def check_arguments(arguments: str, *, task_name: str, limit_bytes: int) -> None:
    """Raise MessageTooLarge where arguments, as JSON, are over the limit of a record."""
    if (size := size_bytes(arguments)) > limit_bytes:
        raise MessageTooLarge(
            task_name=task_name,
            size_bytes=size,
            limit_bytes=limit_bytes,
            limited_by="LAMBDA_TASKS_MAX_ARGUMENT_BYTES allows",
        )


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _parse(body: str) -> dict[str, Any]:
    try:
        content = json.loads(
            body,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            object_pairs_hook=_build_object,
        )
    except MessageRefused:
        raise
    except RecursionError:
        raise MessageRefused("The body is nested too deeply.") from None
    except ValueError as error:
        # A JSONDecodeError's message has only a position, so the body stays out of the log.
        raise MessageRefused(f"The body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise MessageRefused(f"The body is a JSON {type(content).__name__}, not an object.")
    if _may_be_deep(body) and _is_deeper(content, MAX_DEPTH):
        raise MessageRefused("The body is nested too deeply.")
    # Without escapes, ASCII has neither NUL nor surrogates, so most bodies skip the walk.
    if "\\u" in body or not body.isascii():
        _refuse_invalid_text(content)
    return content


def _refuse_invalid_text(content: object) -> None:
    try:
        check_text(content, what="The body")
    except ValueError as error:
        raise MessageRefused(str(error)) from None
    except RecursionError:
        raise MessageRefused("The body is nested too deeply.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise MessageRefused(f"The body holds {name}, which JSON does not have.")


def _parse_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MessageRefused("The body holds a number beyond the range of floats.")
    return number


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise MessageRefused("The body has a key twice in one object.")
    return content


def _is_a(kind: type[T]) -> Callable[[str, Any], T]:
    """Return a reader of values of exactly this type: JSON's true is no number."""

    def read(key: str, value: Any) -> T:
        if type(value) is not kind:
            raise MessageRefused(
                f"The body's {key!r} is a {type(value).__name__}, not a {kind.__name__}."
            )
        return value

    return read


_read_text = _is_a(str)
_read_int = _is_a(int)
_read_list: Callable[[str, Any], list[Any]] = _is_a(list)
_read_dict: Callable[[str, Any], dict[str, Any]] = _is_a(dict)


def _read_args(key: str, value: Any) -> tuple[Any, ...]:
    return tuple(_read_list(key, value))


def _text_up_to(limit: int) -> Callable[[str, Any], str]:
    def read(key: str, value: Any) -> str:
        text = _read_text(key, value)
        if len(text) > limit:
            raise MessageRefused(f"The body's {key!r} is longer than {limit} characters.")
        return text

    return read


def _int_within(numbers: range) -> Callable[[str, Any], int]:
    def read(key: str, value: Any) -> int:
        number = _read_int(key, value)
        if number not in numbers:
            raise MessageRefused(f"The body's {key!r} is outside {numbers[0]}..{numbers[-1]}.")
        return number

    return read


def _read_uuid(key: str, value: Any) -> UUID:
    try:
        return UUID(_read_text(key, value))
    except ValueError:
        raise MessageRefused(f"The body's {key!r} is not a UUID.") from None


def _read_headers(key: str, value: Any) -> dict[str, Any]:
    headers = _read_dict(key, value)
    if headers and size_bytes(_ENCODER.encode(headers)) > MAX_HEADERS_BYTES:
        raise MessageRefused(f"The body's {key!r} have more than {MAX_HEADERS_BYTES} bytes.")
    return headers


def _read_datetime(key: str, value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(_read_text(key, value))
    except ValueError:
        raise MessageRefused(f"The body's {key!r} is not an ISO 8601 time.") from None
    if moment.tzinfo is None:
        raise MessageRefused(f"The body's {key!r} has no time zone.")
    if moment.year not in YEARS:
        raise MessageRefused(f"The body's {key!r} is outside the years 1970 to 8999.")
    return moment


READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "task_name": _text_up_to(MAX_NAME),
    "kwargs": _read_dict,
    "args": _read_args,
    "n_retries": _int_within(range(2**15)),
    "n_continues": _int_within(range(2**15)),
    "invocation_id": _read_uuid,
    "backend": _text_up_to(MAX_BACKEND),
    "queue": _text_up_to(MAX_NAME),
    "durable": _is_a(bool),
    "run_after": _read_datetime,
    "expires_at": _read_datetime,
    "group_key": _text_up_to(MAX_GROUP_KEY),
    "priority": _int_within(PRIORITIES),
    "headers": _read_headers,
}
"""The readers of a body's keys, which are called with the key and its value."""


def check_headers(headers: object, *, what: str) -> dict[str, Any]:
    """Return a copy of headers. `what` starts the error's sentence.

    Raises TypeError unless they are a dict with strings as keys, and ValueError for values that
    JSON or a database can't hold and for more than MAX_HEADERS_BYTES.
    """
    if not isinstance(headers, dict) or not all(isinstance(key, str) for key in headers):
        raise TypeError(f"{what} are {headers!r}. Use a dict with strings as keys.")
    try:
        text = encode_json(headers, what=what)
    except TypeError as error:
        raise TypeError(f"{what}: {error}. Use JSON values.") from None
    if (size := size_bytes(text)) > MAX_HEADERS_BYTES:
        raise ValueError(
            f"{what} have {size} bytes as JSON, and {MAX_HEADERS_BYTES} are allowed. Pass "
            "large values as arguments."
        )
    copied: dict[str, Any] = json.loads(text)
    return copied
