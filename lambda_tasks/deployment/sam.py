"""The template of this project for AWS SAM, as text."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.template import Context, Engine

from .. import conf
from ..core import aws_values
from ..core.aws_values import (
    FAILURE_ALARMS,
    TICK_ALARM,
    AlarmPlan,
    QueuePlan,
    connections_needed,
)
from ..queues.batch import BatchQueue
from .planning import make_plan

SOURCE: Final = Path(__file__).with_name("sam.yaml")

LONE_TAG: Final = re.compile(r"^ *({%[^\n]*%})\n", re.MULTILINE)
"""A line with nothing but a tag of Django's templates, which would leave an empty line."""

MAX_QUEUES: Final = 60
"""The most queues of a template, each with 7 of its 500 resources (CloudFormation quotas)."""

ENGINE_FAMILIES: Final = {"postgresql": "POSTGRESQL", "mysql": "MYSQL"}
"""The engine families of RDS Proxy, by Django's names of the databases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a template has beside what the settings ask for."""

    image_uri: bool = False
    """Whether the image is a parameter. Otherwise `sam build` builds it."""
    vpc: bool = False
    """Whether the function is in a VPC."""
    secret: bool = False
    """Whether its environment is a secret of Secrets Manager."""
    parameters: bool = False
    """Whether its environment is a path in Parameter Store."""
    doctor: bool = False
    """Whether the function may read what the doctor looks at."""
    kms_key: bool = False
    """Whether the project's own KMS key encrypts messages."""
    snapstart: bool = False
    """Whether functions start from a snapshot of a published version."""
    pollers: bool = False
    """Whether queues have provisioned pollers."""
    rds_proxy: str | None = None
    """The database behind an RDS Proxy, one of ENGINE_FAMILIES; None without one."""

    def __post_init__(self) -> None:
        """Raise ImproperlyConfigured for an RDS Proxy without a VPC."""
        if self.rds_proxy and not self.vpc:
            raise ImproperlyConfigured("An RDS Proxy is reached in its VPC only. Add the VPC.")


@dataclass(frozen=True, slots=True)
class NamedQueue:
    """A queue of the plan and the start of its logical ids."""

    id: str
    plan: QueuePlan

    @property
    def label(self) -> str:
        """The queue's key in the settings, as it stands between double quotes: any text can."""
        return json.dumps(self.plan.setting)[1:-1]

    @property
    def both(self) -> tuple[str, str]:
        """The logical ids of the queue and of its dead-letter queue."""
        return f"{self.id}Queue", f"{self.id}DeadLetters"


@dataclass(frozen=True, slots=True)
class NamedAlarm:
    """An alarm of the plan, and the start of its logical id."""

    id: str
    plan: AlarmPlan
    watched: str
    """The name of the queue or of the function, as an expression of the template."""

    @property
    def description(self) -> str:
        """Its description between double quotes: it may name a queue, whose key is any text."""
        return json.dumps(self.plan.description)


def render(options: Options) -> str:
    """Return the template of this project.

    Raises ImproperlyConfigured where the settings have no SQS queue, or too many.
    """
    plan = make_plan(prefix="")  # which is a parameter of the template
    if not 0 < len(plan.queues) <= MAX_QUEUES:
        raise ImproperlyConfigured(
            f"LAMBDA_TASKS_QUEUES has {len(plan.queues)} SQS queues, and a template has 1 to "
            f'{MAX_QUEUES}. Name them there: {{"default": {{"queue_name": "orders"}}}}.'
        )
    queues = named(plan.queues)
    source = LONE_TAG.sub(r"\1", SOURCE.read_text())
    context = {
        **{name: getattr(options, name) for name in options.__slots__},
        "plan": plan,
        "queues": queues,
        "alarms": list(_alarms(queues)),
        "values": vars(aws_values),
        "settings_module": os.environ.get("DJANGO_SETTINGS_MODULE", "mysite.settings"),
        "function": "!Ref Alias" if options.snapstart else "!GetAtt Function.Arn",
        "tick_event": json.dumps(aws_values.TICK_EVENT),
        "connections": function_connections(),
        "batch_arns": _arns(plan.batch_queues),
        "direct_batch_arns": _arns(each for each in plan.batch_queues if each.direct),
        "engine_family": ENGINE_FAMILIES.get(options.rds_proxy or ""),
    }
    # Names and numbers as they are: no HTML, and no separators of a language.
    literal = Context(context, autoescape=False, use_l10n=False)
    return Engine(autoescape=False).from_string(source).render(literal)


def function_connections() -> int:
    """Return how many connections to the database one function may open."""
    processes = getattr(django_settings, "LAMBDA_TASKS_PROCESSES", aws_values.VISIBLE_CPUS)
    return connections_needed(1, concurrency=conf.current().concurrency, processes=processes)


def named(queues: Iterable[QueuePlan]) -> list[NamedQueue]:
    """Return queues with the start of their logical ids: letters and digits, each id once."""
    found: dict[str, NamedQueue] = {}
    for plan in queues:
        words = re.findall(r"[A-Za-z0-9]+", plan.setting)
        stem = id = "".join(word[0].upper() + word[1:] for word in words) or "Other"
        numbers = itertools.count(2)
        while id in found:
            id = f"{stem}{next(numbers)}"
        found[id] = NamedQueue(id, plan)
    return list(found.values())


def _alarms(queues: Iterable[NamedQueue]) -> Iterator[NamedAlarm]:
    for queue in queues:
        live, dead = queue.both
        for plan, watched in ((queue.plan.dead_letters_alarm, dead), (queue.plan.age_alarm, live)):
            yield NamedAlarm(queue.id + plan.name, plan, f"!GetAtt {watched}.QueueName")
    for plan in (TICK_ALARM, *FAILURE_ALARMS):
        yield NamedAlarm(plan.name, plan, "!Ref Function")


def _arns(queues: Iterable[BatchQueue]) -> list[str]:
    return sorted({arn for each in queues for arn in each.arns})
