"""The refusal of sync forms in an event loop, which names the async twin."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.utils.asyncio import async_unsafe

Form = TypeVar("Form", bound=Callable[..., Any])


def sync_form(twin: str) -> Callable[[Form], Form]:
    """Let a function raise SynchronousOnlyOperation in a running event loop.

    `twin` is the async form to use instead, as code: `task.aexecute_on_commit(...)`.
    """
    # Annotated here, as without django-stubs async_unsafe() hides the types of what it decorates.
    refuse: Callable[[Form], Form] = async_unsafe(f"You are in an event loop: use `await {twin}`.")
    return refuse
