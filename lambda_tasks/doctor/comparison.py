"""How SQS has the queues of the settings, attribute by attribute, compared with their plans."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..queues.sqs_attributes import Attributes, Difference, differences, read
from ..queues.sqs_provision import names_its_sources, sibling_arn, wanted_attributes
from .facts import DeadLetters, LiveQueue


@dataclass(frozen=True, slots=True)
class Compared:
    """A queue in SQS, or its dead-letter queue."""

    name: str
    """Its name in SQS."""
    n_attributes: int
    """How many attributes were compared."""
    differences: Sequence[Difference]


def compare(queues: Iterable[LiveQueue]) -> dict[str, list[Compared]]:
    """Return queues with their dead letters, by name in the settings; those that could be read."""
    found = {}
    for each in queues:
        # What can't be read, or has a form that nobody knew, is told by the checks.
        with suppress(Exception):
            found[each.queue.name] = list(_compare(each))
    return found


def _compare(live: LiveQueue) -> Iterator[Compared]:
    attributes, arn = read(live.attributes.value), live.queue.arn
    letters = live.dead_letters.value
    dead = None if letters is None else read(letters.attributes)
    dead_arn = sibling_arn(arn, live.plan.dead_letter_name) if letters is None else letters.arn
    wanted, wanted_dead = wanted_attributes(live.plan, arn, attributes, dead_arn, dead)
    yield _compared(live.plan.name, wanted, attributes)
    if letters is None or dead is None:
        return
    if not names_its_sources(dead):
        # Others may use it, too: only SQS knows. The check of this policy says so.
        del wanted_dead["RedriveAllowPolicy"]
    yield _compared(_name_of(letters), wanted_dead, dead)


def _compared(name: str, wanted: Attributes, live: Attributes) -> Compared:
    return Compared(name, len(wanted), differences(wanted, live))


def _name_of(letters: DeadLetters) -> str:
    return letters.arn.rpartition(":")[2]
