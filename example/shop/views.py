"""A classic view and an async one that place an order, and the page that lists what ran."""

import random
import uuid
from typing import Any

from django.db import transaction
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from lambda_tasks.durable import signal
from lambda_tasks.models import TaskRecord
from lambda_tasks.workflows import workflow
from shop.gifts import send_gift
from shop.models import Order
from shop.tasks import print_invoice, reserve_stock, send_confirmation
from shop.transactions import async_atomic

TITLES = ["The Left Hand of Darkness", "Middlemarch", "Solaris", "Kindred", "Invisible Cities"]
SHOWN = ("QUEUED", "RUNNING", "SUCCESS", "FAILED")


class OutOfStock(Exception):
    """Raised after the tasks were called: the transaction rolls back, and they never run."""


@require_POST
def place_order(request: HttpRequest) -> HttpResponse:
    fields = _fields(request)
    try:
        with transaction.atomic():
            order = Order.objects.create(**fields)
            # The invoice needs to know what was reserved, and nobody is told before that.
            reserved = reserve_stock.step(order_id=order.pk)
            invoiced = print_invoice.step(order_id=order.pk, copies=reserved.result)
            confirmed = send_confirmation.step(order_id=order.pk).after(reserved)
            workflow("order", invoiced, confirmed).execute_on_commit()
            _check_stock(request)
    except OutOfStock:
        return JsonResponse({"order": fields["reference"], "error": "out of stock"}, status=409)
    return _answer(request, order, [reserved.id, invoiced.id, confirmed.id])


@require_POST
async def place_order_async(request: HttpRequest) -> HttpResponse:
    fields = _fields(request)
    try:
        async with async_atomic():
            order = await Order.objects.acreate(**fields)
            placed = [
                await reserve_stock.aexecute_on_commit(order_id=order.pk),
                await send_confirmation.aexecute_on_commit(order_id=order.pk),
            ]
            _check_stock(request)
    except OutOfStock:
        return JsonResponse({"order": fields["reference"], "error": "out of stock"}, status=409)
    return _answer(request, order, [invocation.id for invocation in placed])


@require_POST
def place_gift(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        order = Order.objects.create(**_fields(request))
        gift = send_gift.execute_on_commit(order_id=order.pk)
    return _answer(request, order, [gift.id])


@require_POST
def answer_gift(request: HttpRequest, gift: uuid.UUID) -> HttpResponse:
    """What the link in the recipient's mail leads to."""
    signal(gift, "approval", request.POST.get("approved") == "yes")
    return JsonResponse({"gift": str(gift)})


def index(request: HttpRequest) -> HttpResponse:
    return render(request, "shop/index.html", _what_ran())


def runs(request: HttpRequest) -> HttpResponse:
    """The changing part of the page alone."""
    return render(request, "shop/_runs.html", _what_ran())


def _what_ran() -> dict[str, Any]:
    counts = dict.fromkeys(TaskRecord.TaskStatus.values, 0)
    counts |= dict(TaskRecord.objects.order_by().values_list("status").annotate(n=Count("pk")))
    return {
        "records": TaskRecord.objects.order_by("-enqueued_at")[:40],
        "counts": [(status, n) for status, n in counts.items() if n or status in SHOWN],
        "total": sum(counts.values()),
    }


def _fields(request: HttpRequest) -> dict[str, str]:
    return {
        "reference": request.POST.get("reference") or f"B-{uuid.uuid4().hex[:8]}",
        "title": request.POST.get("title") or random.choice(TITLES),
        "email": request.POST.get("email") or "reader@books.example",
    }


def _check_stock(request: HttpRequest) -> None:
    if "out_of_stock" in request.POST:
        raise OutOfStock


def _answer(request: HttpRequest, order: Order, placed: list[uuid.UUID]) -> HttpResponse:
    if "from_the_page" in request.POST:
        return redirect("index")
    return JsonResponse(
        {"order": order.reference, "invocations": [str(id) for id in placed]},
        status=201,
    )
