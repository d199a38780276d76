"""A classic and an async view that enqueue in a transaction."""

from django.db import transaction
from django.http import HttpRequest, HttpResponse

from tests.app import tasks
from tests.app.models import Effect


def classic(request: HttpRequest) -> HttpResponse:
    try:
        with transaction.atomic():
            Effect.objects.create(name="view")
            invocation = tasks.leave_effect.execute_on_commit(name="from the classic view")
            if "fail" in request.GET:
                raise RuntimeError("rolled back")
    except RuntimeError:
        return HttpResponse(status=500)
    return HttpResponse(str(invocation.id))


async def asynchronous(request: HttpRequest) -> HttpResponse:
    invocation = await tasks.aleave_effect.aexecute_on_commit(name="from the async view")
    return HttpResponse(str(invocation.id))
