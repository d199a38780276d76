"""What the admin's first page says of the tasks, in a few lines."""

from typing import Any

from django.http import HttpRequest

from ..operations import figures
from . import facts, pages


def context(request: HttpRequest) -> dict[str, Any]:
    """Return what the widget's template shows; no facts for who may not see them."""
    links = pages.links(request)
    if not links or not pages.may_view(request, "taskrecord"):
        return {"links": links, "facts": []}
    site = getattr(request, "current_app", None) or "admin"
    return {"links": links, "facts": facts.shown(figures.overview().facts, site)}
