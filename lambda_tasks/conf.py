"""The LAMBDA_TASKS_* settings: read lazily, and validated once into one typed object.

Each error is ImproperlyConfigured and names the setting, the value and the fix. Changes by
`override_settings` take effect at once.
"""

import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from . import access, schedules
from .access import Authenticator
from .core.figures import MAX_KEEP_DAYS, MIN_KEEP_DAYS
from .core.grace import DEPLOYMENT_GRACE_S
from .core.lifecycle import KEEP_SECRETS_S, SQS_TERMS, LookTerms
from .core.limits import Rate
from .core.retention import DEFAULT_RETENTION, Retention, parse_keep
from .core.schedules import MAX_SCHEDULE_NAME, Schedule, resolved
from .core.signature import MIN_KEY_CHARS, Signer
from .core.spelling import did_you_mean
from .local_run import ACCOUNT, LocalRun
from .queues import kinds
from .queues.aws.client import CLIENT_OPTIONS
from .queues.base import MAX_OTHER_TIMEOUT_S, Queue, setting_error
from .queues.database import DatabaseQueue, LocalQueue
from .queues.sqs import MAX_MESSAGE_BYTES, SQSQueue
from .queues.sqs_names import SQSNames

PREFIX: Final = "LAMBDA_TASKS_"

ALMOST_PREFIX: Final = re.compile(r"LAMBDA_?TASKS?_?")
"""What somebody may write in place of the prefix. LAMBDA_TASK_ROOT, which is AWS's, is not ours."""

QUEUE_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{0,40}")
"""What SQS takes in a name; half of its 80 characters are left to the name itself."""

ENDPOINT_PATTERN: Final = re.compile(r"https?://\S+")

MAX_KEEP_SECRETS_S: Final = 10 * 365 * 24 * 3600
"""Ten years. A longer time most likely stands for ever, and databases have no such date."""

MAX_DEPLOYMENT_GRACE_S: Final = 14 * 24 * 3600
"""Fourteen days, the longest time that SQS keeps a message (Amazon SQS quotas)."""

METRICS_NAMESPACE: Final = re.compile(r"(?!AWS/)[A-Za-z0-9._/#:-]{1,255}")
"""What CloudWatch takes for a namespace (MetricDatum and PutMetricData, its API reference)."""

LOG_GROUP: Final = re.compile(r"[A-Za-z0-9._/#-]{1,512}")
"""What CloudWatch Logs takes for a log group (CreateLogGroup, its API reference)."""

RELEASE: Final = re.compile(r"\S{0,100}")
"""A release stands behind a space in the id of each worker."""

DIRECT_MESSAGES: Final = ("declared", "signed", "any")
"""The values of LAMBDA_TASKS_DIRECT_MESSAGES: which messages may run without a record.

Those of tasks with `durable=False`, also those that are signed, or any message.
"""

LOCAL_WORKERS_VARIABLE: Final = "LAMBDA_TASKS_LOCAL_WORKERS_CHILD"
"""The variable with the number of local workers. It overrides the setting in their processes."""


@dataclass(frozen=True, slots=True)
class ScheduleSetting:
    """An entry of LAMBDA_TASKS_SCHEDULES."""

    task_name: str
    schedule: Schedule
    backend: str | None = None
    """The alias in TASKS for a task of django.tasks; None for its own."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, validated, with their defaults. docs/settings.md lists them."""

    queues: Mapping[str, Queue] = field(
        default_factory=lambda: {"default": DatabaseQueue(name="default")}
    )
    """The queues by name, always with one named "default"."""
    queue_prefix: str = ""
    """What stands before the name in AWS of each queue that is given by its name."""
    default_soft_timeout: int = 270
    """The soft timeout in seconds of tasks that declare none."""
    default_hard_timeout: int = 300
    """The hard timeout in seconds of tasks that declare none, longer than the soft one."""
    eager: bool = False
    """Whether tasks run at once, in the calling process, without timeouts."""
    eager_raises: bool = False
    """Whether an eager call raises what its task has raised, after that is recorded and logged."""
    local_workers: int = 0
    """The number of processes that run tasks next to the enqueuing process; 0 is off."""
    noop_execution: bool = False
    """Whether tasks are dropped, with a warning."""
    max_retries: int = 2880
    """The most retries of one task."""
    max_continues: int = 10_000
    """The most runs of one chain of Continue."""
    singleton_cache: str = "default"
    """The alias in CACHES of the Redis with the singleton locks."""
    durable: bool = True
    """Whether calls are stored in the caller's transaction before they are sent."""
    wait_for_send: bool = False
    """Whether a durable call returns only when its queue has accepted the message."""
    concurrency: int = 10
    """The most async tasks that run at once in one process."""
    processes: int = field(default_factory=lambda: usable_cpus())  # noqa: PLW0108 - defined below
    """The number of worker processes for sync tasks."""
    max_attempts: int = 5
    """The most starts of one invocation without an outcome."""
    deployment_grace: int = DEPLOYMENT_GRACE_S
    """Seconds for which what this release can't run waits for another release."""
    max_argument_bytes: int = 4 * 2**20
    """The most bytes of the arguments of a durable call, as JSON."""
    modules: tuple[str, ...] = ()
    """Modules from which tasks are imported, in addition to those of the installed apps."""
    signing_keys: tuple[str, ...] = field(default=(), repr=False)
    """The keys that verify messages, of 32 characters or more; the first signs."""
    direct_messages: str = "declared"
    """One of DIRECT_MESSAGES."""
    secrets_keys: tuple[str, ...] = field(default=(), repr=False)
    """The keys that decrypt secrets at rest; the first encrypts. The default is SECRET_KEY."""
    encrypt_arguments: bool = False
    """Whether all arguments and results are encrypted at rest."""
    keep_secrets: int = KEEP_SECRETS_S
    """Seconds for which a FAILED record keeps its secrets; with 0 they are removed at once."""
    keep: Retention = field(default_factory=lambda: DEFAULT_RETENTION)
    """For how long cleanup_task_records keeps records of tasks that say nothing of it."""
    schedules: Mapping[str, "ScheduleSetting"] = field(default_factory=dict)
    """The schedules by name, in addition to those that tasks declare."""
    redact: frozenset[str] = frozenset()
    """Names of parameters whose values are secret."""
    endpoints: Mapping[str, tuple[Authenticator, ...]] = field(default_factory=dict, repr=False)
    """Who may call which endpoint, by its name. Endpoints that are not here answer nobody."""
    keep_figures: int = 90
    """Days for which the figures of days, and errors, are kept."""
    release: str = ""
    """The name of the project's release, which is noted with what it has run."""
    metrics: str | None = None
    """The namespace of metrics in CloudWatch; None writes none."""
    log_group: str | None = None
    """The log group of the function, to which the pages of runs link; None for no links."""
    aws: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Keyword arguments of the AWS client, such as region_name."""

    @cached_property
    def table_queues(self) -> frozenset[str]:
        """The names of the queues that are the table of records itself."""
        return frozenset(name for name, queue in self.queues.items() if queue.is_table)

    def look_terms(self, queue: str) -> LookTerms:
        """Return the look terms of a queue; those of SQS for an unknown queue."""
        return self._look_terms.get(queue, SQS_TERMS)

    def rate_of(self, queue: str) -> Rate | None:
        """Return the rate of a queue; None for one without, or an unknown one."""
        found = self.queues.get(queue)
        return None if found is None else found.rate

    @cached_property
    def _look_terms(self) -> Mapping[str, LookTerms]:
        return {name: self._look_terms_of(queue) for name, queue in self.queues.items()}

    def _look_terms_of(self, queue: Queue) -> LookTerms:
        passed = self.queues.get(queue.carried_by or queue.name, queue)
        if not passed.look_terms.can_delay:
            return replace(queue.look_terms, ahead=passed.look_terms.ahead)
        return queue.look_terms

    def queues_fed_by(self, source: str) -> Mapping[str, Queue]:
        """Return the queues, by name, whose messages arrive from this ARN or name in AWS."""
        fed = self._fed_by.get(source)
        if fed is None:
            found = {name: queue for name, queue in self.queues.items() if queue.is_fed_by(source)}
            fed = self._fed_by[source] = found
        return fed

    @cached_property
    def _fed_by(self) -> dict[str, Mapping[str, Queue]]:
        return {}

    @property
    def accepts_any_call(self) -> bool:
        """Whether a message of any task may run without a record.

        Also True in the modes that store no call, as no record could be found there. Where signing
        keys are set, the message must be signed.
        """
        return self.direct_messages != "declared" or self.eager or self.noop_execution

    @property
    def runs_without_queues(self) -> bool:
        """Whether a mode runs or drops all tasks in another way than by their queues."""
        return self.noop_execution or self.eager or self.local_workers > 0

    @cached_property
    def is_fed_by_aws(self) -> bool:
        """Whether any queue is in AWS."""
        return any(queue.is_in_aws for queue in self.queues.values())

    @cached_property
    def is_open_to_others(self) -> bool:
        """Whether others than the library may put messages into any queue."""
        return any(queue.audience for queue in self.queues.values())

    def signer(self, audience: str) -> Signer | None:
        """Return the signer for a queue, or None without signing keys.

        It signs with the first key. The other keys only verify.
        """
        return Signer(self.signing_keys[0], audience) if self.signing_keys else None

    def queue(self, name: str) -> Queue:
        """Return the queue of a name. Raises ImproperlyConfigured for an unknown name."""
        try:
            return self.queues[name]
        except (KeyError, TypeError):  # a list, say, is no key
            raise ImproperlyConfigured(
                f"There is no queue {name!r} in LAMBDA_TASKS_QUEUES, which has "
                f"{', '.join(map(repr, self.queues))}.{did_you_mean(name, self.queues)}"
            ) from None


def current() -> Settings:
    """Return the settings. Raises ImproperlyConfigured, with all errors, where they are invalid."""
    settings, errors = _load()
    if errors:
        raise ImproperlyConfigured("\n".join(errors))
    return settings


def _misspelled_prefix(name: str) -> list[str]:
    """Return the error of a setting whose prefix is almost ours, such as LAMBDA_TASK_QUEUES."""
    prefix = ALMOST_PREFIX.match(name)
    meant = name[prefix.end() :] if prefix else ""
    if meant.lower() not in _PARSERS:
        return []
    return [f"{name} is not a setting of lambda_tasks. Did you mean {PREFIX + meant!r}?"]


def errors() -> list[str]:
    """Return every error of the settings, one text each, for the system check."""
    return list(_load()[1])


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _load() -> tuple[Settings, tuple[str, ...]]:
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name in dir(django_settings):
        if not name.startswith(PREFIX):
            problems += _misspelled_prefix(name)
            continue
        try:
            key = _key_of(name)
            values[key] = _PARSERS[key](name, getattr(django_settings, name))
        except ImproperlyConfigured as error:
            problems += map(str, error.args)  # some settings report all their mistakes at once
    if count := os.environ.get(LOCAL_WORKERS_VARIABLE):
        values["local_workers"] = values["processes"] = int(count)
    try:
        run = LocalRun.from_environment()
    except ImproperlyConfigured as error:
        problems.append(str(error))
        run = None
    settings = _with_local_workers(values) if run is None else _in_local_run(values, run)
    problems.extend(_contradictions(settings))
    return settings, tuple(problems)


def forget() -> None:
    """Forget the loaded settings; the next use loads them again."""
    _load.cache_clear()


def _with_local_workers(values: dict[str, Any]) -> Settings:
    """Return the settings, with every queue on the table if LAMBDA_TASKS_LOCAL_WORKERS is set."""
    settings = Settings(**values)
    if not settings.local_workers:
        return settings
    return replace(
        settings, queues={name: LocalQueue.of(queue) for name, queue in settings.queues.items()}
    )


def _in_local_run(values: dict[str, Any], run: LocalRun) -> Settings:
    """Return the settings of a local run, in which nothing is sent to AWS.

    Every queue is in the run's local SQS, except those that are the table by their setting; without
    a local SQS, all are the table. Modes that run tasks elsewhere are off, so that tasks take the
    same way as in production. A project without signing keys uses the run's.
    """
    chosen = values.get("queues", {"default": SQSQueue("default", "")})
    values["queues"] = {
        name: DatabaseQueue(name)
        if not run.endpoint_url or queue.is_table
        else SQSQueue(
            name,
            f"{run.endpoint_url}/{ACCOUNT}/{_sqs_name(name)}",
            max_timeout_s=MAX_OTHER_TIMEOUT_S,
            max_message_bytes=getattr(queue, "max_message_bytes", MAX_MESSAGE_BYTES),
        )
        for name, queue in chosen.items()
    }
    values |= {"eager": False, "local_workers": 0, "noop_execution": False, "aws": run.aws}
    values["queue_prefix"] = ""
    if run.keys is not None and not values.get("signing_keys"):
        values["signing_keys"] = (run.keys.signing_key,)
    return Settings(**values)


def _sqs_name(queue: str) -> str:
    """Return a name for a queue that SQS accepts.

    Queues whose names differ only in characters that SQS rejects share one queue.
    """
    fifo = ".fifo" if queue.endswith(".fifo") else ""
    return re.sub(r"[^A-Za-z0-9_-]", "-", queue.removesuffix(".fifo"))[:75] + fifo


def _key_of(name: str) -> str:
    key = name.removeprefix(PREFIX).lower()
    if key not in _PARSERS:
        known = [PREFIX + other.upper() for other in _PARSERS]
        raise ImproperlyConfigured(
            f"{name} is not a setting of lambda_tasks.{did_you_mean(name, known)}"
        )
    return key


def _contradictions(settings: Settings) -> list[str]:
    problems = []
    modes = {
        "LAMBDA_TASKS_NOOP_EXECUTION": settings.noop_execution,
        "LAMBDA_TASKS_EAGER": settings.eager,
        "LAMBDA_TASKS_LOCAL_WORKERS": settings.local_workers > 0,
    }
    chosen = [name for name, is_on in modes.items() if is_on]
    if len(chosen) > 1:
        problems.append(f"{' and '.join(chosen)} exclude one another. Keep one of them.")
    if settings.local_workers and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        problems.append(
            f"LAMBDA_TASKS_LOCAL_WORKERS is {settings.local_workers}, and the environment has no "
            "DJANGO_SETTINGS_MODULE, which its processes need to load the settings. Set it, or use "
            "LAMBDA_TASKS_EAGER."
        )
    if settings.default_soft_timeout >= settings.default_hard_timeout:
        problems.append(
            f"LAMBDA_TASKS_DEFAULT_SOFT_TIMEOUT ({settings.default_soft_timeout}) is not less "
            f"than LAMBDA_TASKS_DEFAULT_HARD_TIMEOUT ({settings.default_hard_timeout}). A task "
            "needs time between the two to clean up."
        )
    if settings.encrypt_arguments and importlib.util.find_spec("cryptography") is None:
        problems.append(
            "LAMBDA_TASKS_ENCRYPT_ARGUMENTS is True, and cryptography is not installed. Install "
            "lambda-tasks[secrets]."
        )
    if settings.direct_messages == "signed" and not settings.signing_keys:
        problems.append(
            "LAMBDA_TASKS_DIRECT_MESSAGES is 'signed', and LAMBDA_TASKS_SIGNING_KEYS has no key. "
            "Set one, or use 'declared'."
        )
    problems += [
        f"LAMBDA_TASKS_ENDPOINTS[{endpoint!r}] names the queue {queue!r}, which is not in "
        f"LAMBDA_TASKS_QUEUES.{did_you_mean(queue, settings.queues)}"
        for endpoint, authenticators in settings.endpoints.items()
        for each in authenticators
        for queue in sorted(each.scope.queues - settings.queues.keys())
    ]
    return problems


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise setting_error(name, value, "Use True or False.")
    return value


def _whole_number(minimum: int, maximum: float = math.inf) -> Callable[[str, object], int]:
    limits = f"from {minimum} up" if maximum == math.inf else f"from {minimum} to {maximum:,.0f}"

    def parse(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise setting_error(name, value, f"Use a whole number {limits}.")
        return value

    return parse


def _one_of(*choices: str) -> Callable[[str, object], str]:
    def parse(name: str, value: object) -> str:
        if value not in choices:
            raise setting_error(name, value, f"Use one of {', '.join(map(repr, choices))}.")
        return str(value)

    return parse


def _module_names(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, str) and item for item in value
    ):
        raise setting_error(name, value, "Use a list of dotted package names.")
    return tuple(value)


def _keep(name: str, value: object) -> Retention:
    try:
        return {**DEFAULT_RETENTION, **parse_keep(name, value)}
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from None


def _schedules(name: str, value: object) -> Mapping[str, ScheduleSetting]:
    if not isinstance(value, Mapping):
        example = '{"nightly": {"task": "shop.tasks.report", "cron": "30 2 * * *"}}'
        raise setting_error(name, value, f"Use a dict like {example}.")
    return {key: _schedule(f"{name}[{key!r}]", key, given) for key, given in value.items()}


def _schedule(where: str, name: object, given: object) -> ScheduleSetting:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_SCHEDULE_NAME:
        raise setting_error(where, name, f"Use a name of 1 to {MAX_SCHEDULE_NAME} characters.")
    if not isinstance(given, Mapping):
        raise setting_error(where, given, 'Use a dict with "task" and "cron", "every" or "at".')
    rest = dict(given)
    task_name, backend = rest.pop("task", None), rest.pop("backend", None)
    if not isinstance(task_name, str):
        raise setting_error(where, given, 'Add the dotted name of a task as "task".')
    kinds = [kind for kind in ("cron", "every", "at") if kind in rest]
    if len(kinds) != 1:
        raise setting_error(where, given, 'Use one of "cron", "every" and "at".')
    make = getattr(schedules, kinds[0])
    try:
        made = make(rest.pop(kinds[0]), name=name, **rest)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{where}: {error}") from None
    named = resolved(made, name=name, timezone=django_settings.TIME_ZONE)
    return ScheduleSetting(task_name, named, backend)


def _parameter_names(name: str, value: object) -> frozenset[str]:
    if not isinstance(value, list | tuple | set | frozenset) or not all(
        isinstance(item, str) and item.isidentifier() for item in value
    ):
        raise setting_error(name, value, "Use a list of parameters' names.")
    return frozenset(value)


def _keys(name: str, value: object) -> tuple[str, ...]:
    # The message leaves the value out: it is a secret.
    if not isinstance(value, list | tuple):
        raise ImproperlyConfigured(f"{name} is a {type(value).__name__}. Use a list of keys.")
    if others := {type(key).__name__ for key in value if not isinstance(key, str)}:
        raise ImproperlyConfigured(
            f"{name} has a key that is a {others.pop()}, but keys are str. "
            "Use secrets.token_urlsafe(32)."
        )
    if any(len(key) < MIN_KEY_CHARS for key in value):
        raise ImproperlyConfigured(
            f"{name} has a key of less than {MIN_KEY_CHARS} characters. "
            "Use secrets.token_urlsafe(32)."
        )
    return tuple(value)


def _metrics_namespace(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not METRICS_NAMESPACE.fullmatch(value):
        raise setting_error(
            name, value, "Use a namespace of CloudWatch, like 'Shop': 1 to 255 of A-Z a-z 0-9 "
            "and . - _ / # :, and not one that starts with 'AWS/'."
        )  # fmt: skip
    return value


def _log_group(name: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not LOG_GROUP.fullmatch(value):
        raise setting_error(
            name, value, "Use the name of the function's log group, like '/aws/lambda/shop'."
        )
    return value


def _release(name: str, value: object) -> str:
    if not isinstance(value, str) or not RELEASE.fullmatch(value):
        raise setting_error(
            name, value, 'Use up to 100 characters without a space, like "v42" or a commit.'
        )
    return value


def _cache_alias(name: str, value: object) -> str:
    caches = django_settings.CACHES
    if not isinstance(value, str) or value not in caches:
        known = ", ".join(map(repr, caches))
        hint = did_you_mean(value, caches) if isinstance(value, str) else ""
        raise setting_error(name, value, f"Use the name of a cache in CACHES: {known}.{hint}")
    return value


def _client_options(name: str, value: object) -> Mapping[str, Any]:
    # The messages leave values out: some are secret.
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(
            f"{name} is a {type(value).__name__}. Use a dict of keyword arguments of an AWS "
            "client, like region_name."
        )
    if problems := list(_mistakes_in_client_options(value)):
        raise ImproperlyConfigured(f"{name}: {' '.join(problems)}")
    return dict(value)


def _mistakes_in_client_options(options: Mapping[Any, Any]) -> Iterator[str]:
    for option in options:
        if option not in CLIENT_OPTIONS:
            yield f"{option!r} is not an option of an AWS client.{_hint_for_option(str(option))}"
    keys = [options.get(each) for each in ("aws_access_key_id", "aws_secret_access_key")]
    if keys.count(None) == 1:
        yield "Set aws_access_key_id and aws_secret_access_key together."
    if isinstance(options.get("config"), Mapping):
        yield "'config' is a dict. Use aiobotocore.config.AioConfig(...)."
    endpoint_url = options.get("endpoint_url")
    if endpoint_url is not None and not ENDPOINT_PATTERN.fullmatch(str(endpoint_url)):
        yield f"'endpoint_url' is {endpoint_url!r}. Use a URL like https://HOST or http://HOST:PORT."


def _hint_for_option(option: str) -> str:
    if option in ("profile", "profile_name"):
        return " Name the profile in the environment variable AWS_PROFILE."
    return did_you_mean(option, CLIENT_OPTIONS) or (
        " Use those of create_client() of aiobotocore; timeouts, retries and proxies go into "
        "'config', an aiobotocore.config.AioConfig."
    )


def _queues(name: str, value: object) -> Mapping[str, Queue]:
    if not isinstance(value, Mapping) or not value:
        raise setting_error(name, value, 'Use a dict like {"default": "https://sqs..."}.')
    names = _sqs_names()
    queues = {
        queue: kinds.parse(f"{name}[{queue!r}]", queue, raw, names) for queue, raw in value.items()
    }
    if "default" not in queues:
        # Without the values: options of a kind of the project's own may be secret.
        raise setting_error(name, list(queues), "Add a queue called 'default'.")
    return queues


def _sqs_names() -> SQSNames:
    """Return the names of SQS queues, as far as the other settings make sense.

    What does not is reported by their own parsers.
    """
    prefix = getattr(django_settings, f"{PREFIX}QUEUE_PREFIX", "")
    options = getattr(django_settings, f"{PREFIX}AWS", {})
    return SQSNames.of(
        prefix if isinstance(prefix, str) else "",
        options if isinstance(options, Mapping) else {},
        os.environ,
    )


def _queue_prefix(name: str, value: object) -> str:
    if not isinstance(value, str) or not QUEUE_PREFIX.fullmatch(value):
        raise setting_error(
            name, value, 'Use up to 40 letters, digits, hyphens and underscores, like "staging-".'
        )
    return value


_PARSERS: Final[Mapping[str, Callable[[str, object], Any]]] = {
    "queues": _queues,
    "queue_prefix": _queue_prefix,
    "default_soft_timeout": _whole_number(1),
    "default_hard_timeout": _whole_number(1),
    "eager": _boolean,
    "eager_raises": _boolean,
    "local_workers": _whole_number(0),
    "noop_execution": _boolean,
    "max_retries": _whole_number(0),
    "max_continues": _whole_number(0),
    "singleton_cache": _cache_alias,
    "durable": _boolean,
    "wait_for_send": _boolean,
    "concurrency": _whole_number(1),
    "processes": _whole_number(1),
    "max_attempts": _whole_number(1),
    "deployment_grace": _whole_number(0, MAX_DEPLOYMENT_GRACE_S),
    "max_argument_bytes": _whole_number(1),
    "modules": _module_names,
    "signing_keys": _keys,
    "direct_messages": _one_of(*DIRECT_MESSAGES),
    "secrets_keys": _keys,
    "encrypt_arguments": _boolean,
    "keep_secrets": _whole_number(0, MAX_KEEP_SECRETS_S),
    "keep": _keep,
    "schedules": _schedules,
    "redact": _parameter_names,
    "endpoints": access.parse,
    "keep_figures": _whole_number(MIN_KEEP_DAYS, MAX_KEEP_DAYS),
    "release": _release,
    "metrics": _metrics_namespace,
    "log_group": _log_group,
    "aws": _client_options,
}


def _on_change(*, setting: str, **_: object) -> None:
    if ALMOST_PREFIX.match(setting) or setting in ("CACHES", "DEBUG", "TIME_ZONE"):
        forget()


setting_changed.connect(_on_change)
