"""Who may call which endpoint: LAMBDA_TASKS_ENDPOINTS, parsed. `endpoints` asks it.

No message repeats a value that may hold a secret.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from .core.request_signature import DEFAULT_WINDOW_S, MIN_SECRET_CHARS
from .core.spelling import did_you_mean

OPEN: Final = "open"
"""The value for an endpoint that answers everybody: health/ may."""

MAX_WINDOW_S: Final = 3600
"""The longest window of signed requests: an hour, as no clock of a server is further off."""

_DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")

_PERMISSION: Final = re.compile(r"\w+\.\w+")


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the tasks that an authenticator opens. Empty sets stand for all."""

    tasks: frozenset[str] = frozenset()
    """The dotted names of tasks."""
    queues: frozenset[str] = frozenset()
    """The names of queues."""

    def covers(self, *, task: str, queue: str) -> bool:
        """Return whether a task on a queue is within the scope."""
        return (not self.tasks or task in self.tasks) and (not self.queues or queue in self.queues)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticator:
    """One way to be let in at an endpoint."""

    scope: Scope = Scope()
    shows_results: bool = False
    """Whether the status of a task comes with its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open(Authenticator):
    """Lets everybody in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer(Authenticator):
    """Lets in who sends a shared secret: `Authorization: Bearer SECRET`."""

    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hmac(Authenticator):
    """Lets in who signs the request with a shared key. See core.request_signature."""

    keys: tuple[str, ...] = field(repr=False)
    window_s: int = DEFAULT_WINDOW_S
    """Seconds for which a signature is valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Staff(Authenticator):
    """Lets in members of the staff, by their session, who have a permission."""

    permission: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Custom(Authenticator):
    """Lets in whom a function of the project lets in."""

    path: str
    """The function's dotted path. It gets the request and the endpoint's name."""


@dataclass(frozen=True, slots=True)
class _EndpointTerms:
    """What LAMBDA_TASKS_ENDPOINTS may say of one endpoint."""

    permission: str
    """The permission that staff need."""
    options: frozenset[str] = frozenset()
    """The options of its authenticators that are not of one kind."""
    may_be_open: bool = False


_LOOK: Final = "lambda_tasks.view_taskrecord"

_TERMS: Final[Mapping[str, _EndpointTerms]] = {
    "health": _EndpointTerms(_LOOK, frozenset({"queues"}), may_be_open=True),
    "status": _EndpointTerms(_LOOK, frozenset({"queues"})),
    "record": _EndpointTerms(_LOOK, frozenset({"tasks", "queues", "results"})),
    "tick": _EndpointTerms("lambda_tasks.replay_taskrecord"),
    "run": _EndpointTerms("lambda_tasks.replay_taskrecord", frozenset({"queues"})),
    "purge": _EndpointTerms("lambda_tasks.delete_taskrecord", frozenset({"tasks", "queues"})),
}

ENDPOINTS: Final = tuple(_TERMS)
"""The names of the endpoints, which are those of their URLs."""

_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "bearer": frozenset(),
    "hmac": frozenset({"window"}),
    "staff": frozenset(),
    "callable": frozenset(),
}
"""The kinds of authenticators, with their own options."""


def parse(name: str, value: object) -> Mapping[str, tuple[Authenticator, ...]]:
    """Return the authenticators of each endpoint.

    Raises ImproperlyConfigured, with a text for each mistake.
    """
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(
            f"{name} is a {type(value).__name__}. Use a dict like "
            '{"tick": [{"bearer": SECRET}]}.'
        )
    found: dict[str, tuple[Authenticator, ...]] = {}
    problems: list[str] = []
    for endpoint, given in value.items():
        with _noted(problems):
            _check_known(name, endpoint, ENDPOINTS, "endpoint")
            found[endpoint] = _authenticators(f"{name}[{endpoint!r}]", _TERMS[endpoint], given)
    _refuse(problems)
    return found


def _authenticators(where: str, terms: _EndpointTerms, value: object) -> tuple[Authenticator, ...]:
    if value == OPEN:
        if not terms.may_be_open:
            raise ImproperlyConfigured(f"{where} is 'open'. Only 'health' may be.")
        return (Open(),)
    if not isinstance(value, list | tuple):
        or_open = ", or 'open'" if terms.may_be_open else ""
        raise ImproperlyConfigured(
            f"{where} is a {type(value).__name__}. Use a list of authenticators{or_open}."
        )
    found: list[Authenticator] = []
    problems: list[str] = []
    for number, each in enumerate(value):
        with _noted(problems):
            found.append(_authenticator(f"{where}[{number}]", terms, each))
    _refuse(problems)
    return tuple(found)


def _authenticator(where: str, terms: _EndpointTerms, value: object) -> Authenticator:
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(
            f"{where} is a {type(value).__name__}. Use a dict with one of {_listed(_KINDS)}."
        )
    kinds = [kind for kind in _KINDS if kind in value]
    if len(kinds) != 1:
        has = _listed(value) or "nothing"
        raise ImproperlyConfigured(f"{where} has {has}. Use exactly one of {_listed(_KINDS)}.")
    kind = kinds[0]
    options = sorted({kind} | _KINDS[kind] | terms.options)
    read: dict[str, Any] = {}
    problems: list[str] = []
    for option, given in value.items():
        with _noted(problems):
            _check_known(where, option, options, "option")
            read[option] = _read(f"{where}[{option!r}]", option, given, terms)
    _refuse(problems)
    scope = Scope(read.get("tasks", frozenset()), read.get("queues", frozenset()))
    shared: dict[str, Any] = {"scope": scope, "shows_results": read.get("results", False)}
    match kind:
        case "bearer":
            return Bearer(secrets=read[kind], **shared)
        case "hmac":
            window_s = read.get("window", DEFAULT_WINDOW_S)
            return Hmac(keys=read[kind], window_s=window_s, **shared)
        case "staff":
            return Staff(permission=read[kind], **shared)
        case _:
            return Custom(path=read[kind], **shared)


def _read(where: str, option: str, value: object, terms: _EndpointTerms) -> Any:
    """Return the value of an authenticator's option."""
    match option:
        case "bearer" | "hmac":
            return _secrets(where, value)
        case "window":
            return _window(where, value)
        case "staff":
            return _permission(where, value, terms.permission)
        case "callable":
            return _dotted_path(where, value)
        case "results":
            return _boolean(where, value)
        case _:
            return _names(where, value)


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Note the mistakes of what is parsed within, so that all of them are told at once."""
    try:
        yield
    except ImproperlyConfigured as error:
        problems += error.args


def _refuse(problems: Iterable[str]) -> None:
    if problems:
        raise ImproperlyConfigured(*problems)


def _check_known(where: str, name: object, known: Collection[str], noun: str) -> None:
    if name not in known:
        raise ImproperlyConfigured(
            f"{where} has the {noun} {name!r}. There are: {_listed(known)}."
            f"{did_you_mean(name, known)}"
        )


def _secrets(where: str, value: object) -> tuple[str, ...]:
    secrets = (value,) if isinstance(value, str) else value
    if not isinstance(secrets, list | tuple) or not secrets:
        raise ImproperlyConfigured(
            f"{where} is {'empty' if value in ([], ()) else f'a {type(value).__name__}'}. Use a "
            "secret, or a list of them while you change it."
        )
    for secret in secrets:
        if not isinstance(secret, str) or len(secret) < MIN_SECRET_CHARS:
            has = f"{len(secret)} characters" if isinstance(secret, str) else type(secret).__name__
            raise ImproperlyConfigured(
                f"{where} has a secret of {has}. Use text of {MIN_SECRET_CHARS} characters or "
                "more, as of secrets.token_urlsafe(32)."
            )
        if not secret.isascii() or not secret.isprintable() or " " in secret:
            raise ImproperlyConfigured(
                f"{where} has a secret with characters that no header can carry. Use "
                "secrets.token_urlsafe(32)."
            )
    return tuple(secrets)


def _window(where: str, value: object) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= MAX_WINDOW_S:  # type: ignore[operator]
        raise ImproperlyConfigured(
            f"{where} is {value!r}. Use a whole number of seconds from 1 to {MAX_WINDOW_S:,}."
        )
    return value  # type: ignore[return-value]


def _permission(where: str, value: object, default: str) -> str:
    if value is True:
        return default
    if isinstance(value, str) and _PERMISSION.fullmatch(value):
        return value
    raise ImproperlyConfigured(
        f"{where} is {value!r}. Use True, or a permission like {default!r}, which True stands for."
    )


def _dotted_path(where: str, value: object) -> str:
    if isinstance(value, str) and _DOTTED.fullmatch(value):
        return value
    raise ImproperlyConfigured(
        f"{where} is {value!r}. Use the dotted path of a function, such as 'shop.auth.may_tick'."
    )


def _names(where: str, value: Any) -> frozenset[str]:
    is_list = isinstance(value, list | tuple | set | frozenset)
    if not is_list or not value or not all(isinstance(each, str) for each in value):
        raise ImproperlyConfigured(f"{where} is {value!r}. Use a list of one or more names.")
    return frozenset(value)


def _boolean(where: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ImproperlyConfigured(f"{where} is {value!r}. Use True or False.")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(repr, names))
