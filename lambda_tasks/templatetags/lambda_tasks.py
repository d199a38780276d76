"""The links between the dashboard's pages, and a widget for the admin's first page."""

from typing import Any

from django import template
from django.template import Context

from ..admin import pages, widget

register = template.Library()


@register.inclusion_tag("lambda_tasks/navigation.html", takes_context=True)
def lambda_tasks_navigation(context: Context) -> dict[str, Any]:
    """Show the links to the dashboard's pages that the user may see."""
    return {"links": pages.links(context["request"])}


@register.inclusion_tag("lambda_tasks/widget.html", takes_context=True)
def lambda_tasks_widget(context: Context) -> dict[str, Any]:
    """Show in a few lines whether all is well, with links; nothing to who may not see it."""
    return widget.context(context["request"])
