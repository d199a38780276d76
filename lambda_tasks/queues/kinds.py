"""The list of the library's kinds of queues, and the choice of a kind by a setting."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..core.limits import Rate
from ..core.message import MAX_NAME
from ..ports import Source
from .base import Queue, Wiring, setting_error
from .batch import BatchQueue
from .database import DatabaseQueue
from .sqs import SQSQueue
from .sqs_names import SQSNames

KINDS: Final[tuple[type[Queue], ...]] = (SQSQueue, BatchQueue, DatabaseQueue)


def parse(setting: str, name: object, value: object, names: SQSNames) -> Queue:
    """Return the queue of a value of LAMBDA_TASKS_QUEUES.

    `names` makes URLs of the names of SQS queues. Raises ImproperlyConfigured, with the fix, for an
    invalid name or value.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise ImproperlyConfigured(
            f"{setting}: a queue's name is a text of 1 to {MAX_NAME} characters."
        )
    without_rate, rate = _split_rate(setting, value)
    queue = _parse_kind(setting, name, _with_url(setting, without_rate, names))
    return queue if rate is None else replace(queue, rate=rate)


def _parse_kind(setting: str, name: str, value: object) -> Queue:
    if isinstance(value, Mapping) and "kind" in value:
        rest = {option: each for option, each in value.items() if option != "kind"}
        return _parse_own(setting, name, value["kind"], rest)
    for kind in KINDS:
        if (queue := kind.parse(setting, name, value)) is not None:
            return queue
    raise setting_error(
        setting,
        value,
        'Use a queue URL, {"queue_url": ...}, {"queue_name": ...}, {"job_queue_arn": ..., '
        '"job_definition_arn": ...}, {"database": True} or {"kind": "shop.queues.MyQueue"}.',
    )


def _parse_own(setting: str, name: str, path: object, options: Mapping[str, object]) -> Queue:
    """Return a queue of a kind that the project has, by its dotted path.

    The errors leave out the options: some may be secret.
    """
    queue = _own_kind(f"{setting}['kind']", path).parse(setting, name, options)
    if not isinstance(queue, Queue):
        raise ImproperlyConfigured(
            f"{setting}: {path}.parse() returned {queue!r} for these options. Return the queue, "
            "or raise ImproperlyConfigured with the mistake."
        )
    return queue


def _own_kind(where: str, path: object) -> type[Queue]:
    if not isinstance(path, str) or "." not in path:
        raise setting_error(where, path, 'Use the dotted path of a class: "shop.queues.MyQueue".')
    try:
        kind = import_string(path)
    except Exception as error:
        raise ImproperlyConfigured(
            f"{where} is {path!r}, which can't be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, Queue)):
        raise setting_error(where, path, "It is no subclass of lambda_tasks.queues.Queue.")
    if missing := _missing_methods(kind):
        raise setting_error(where, path, f"Define what the class lacks: {', '.join(missing)}.")
    return kind


def _missing_methods(kind: type[Queue]) -> list[str]:
    missing = [f"{name}()" for name in sorted(kind.__abstractmethods__)]
    has_source = (
        kind.make_source is not Queue.make_source
        or kind.make_sources.__func__ is not Queue.make_sources.__func__  # type: ignore[attr-defined]
    )
    if kind.has_workers and not has_source:
        missing.append("make_source(), or has_workers = False")
    return missing


def _with_url(setting: str, value: object, names: SQSNames) -> object:
    """Return a setting of an SQS queue by its name as one with its URL; others as they are."""
    match value:
        case {"queue_name": name, **rest} if "kind" not in rest:
            try:
                return {"queue_url": names.url(name), **rest}
            except ValueError as error:
                raise setting_error(setting, value, str(error)) from None
    return value


def _split_rate(setting: str, value: object) -> tuple[object, Rate | None]:
    """Return a setting without its rate, which queues of all kinds may have, and the rate."""
    if not isinstance(value, Mapping) or "rate" not in value:
        return value, None
    try:
        rate = Rate.parse(value["rate"])
    except ValueError as error:
        raise ImproperlyConfigured(f"{setting}['rate']: {error}") from None
    return {name: each for name, each in value.items() if name != "rate"}, rate


def make_sources(queues: Iterable[Queue], wiring: Wiring, *, once: bool) -> list[Source]:
    """Return the sources from which a worker receives the messages of these queues.

    Raises ImproperlyConfigured where no worker can consume one of them.
    """
    by_kind: dict[type[Queue], list[Queue]] = {}
    for queue in queues:
        by_kind.setdefault(type(queue), []).append(queue)
    return [
        source
        for kind, members in by_kind.items()
        for source in kind.make_sources(members, wiring, once=once)
    ]
