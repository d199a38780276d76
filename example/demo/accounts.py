"""The closing of the books: every task that was asked for is accounted for, or is named."""

from collections import Counter
from dataclasses import dataclass

from django.db.models import Count, Q
from shop.models import Order, Step

from demo.storefront import Sales
from lambda_tasks import runtime
from lambda_tasks.models import TaskRecord

FINISHED = ("SUCCESS", "FAILED")


@dataclass
class Accounts:
    """What was sent, what ran, and what is wrong: empty if all is well."""

    sent: int
    sent_by_views: int
    requests: int
    by_status: Counter[str]
    rolled_back_orders: int
    failed_on_purpose: int
    steps: int
    problems: list[str]

    @property
    def messages_per_request(self) -> float:
        return self.sent_by_views / self.requests if self.requests else 0.0


def count_finished() -> int:
    return TaskRecord.objects.filter(status__in=FINISHED).count()


def close_books(sales: Sales) -> Accounts:
    stats = runtime.current().dispatcher.stats
    # By the views, or by the function: what follows another step of its workflow, and what the
    # views could not send. What has run was sent.
    sent = TaskRecord.objects.filter(Q(sent_at__isnull=False) | Q(status__in=FINISHED)).count()
    records = {str(id): status for id, status in TaskRecord.objects.values_list("id", "status")}
    by_status = Counter(records.values())
    return Accounts(
        sent=sent,
        sent_by_views=stats.accepted,
        requests=stats.requests,
        by_status=by_status,
        rolled_back_orders=len(sales.rolled_back),
        failed_on_purpose=sales.bouncing,
        steps=Step.objects.count(),
        problems=list(_problems(sales, records, by_status, sent)),
    )


def _problems(
    sales: Sales, records: dict[str, str], by_status: Counter[str], sent: int
) -> list[str]:
    asked = set(sales.invocations)
    lost = [id for id in asked if records.get(id) not in FINISHED]
    ghosts = set(records) - asked
    doubled = (
        Step.objects.values("order", "name").annotate(times=Count("pk")).filter(times__gt=1).count()
    )
    undone = by_status["SUCCESS"] - Step.objects.count()
    came_back = Order.objects.filter(reference__in=sales.rolled_back).count()
    found = {
        "tasks asked for without a finished record": len(lost),
        "records that nobody asked for": len(ghosts),
        "tasks asked for and not sent": len(asked) - sent,
        "steps that were done twice": doubled,
        "successes without their step, or steps without their success": undone,
        "rolled-back orders that are there": came_back,
        "failures that were not on purpose": by_status["FAILED"] - sales.bouncing,
    }
    return [f"{count} {what}" for what, count in found.items() if count]
