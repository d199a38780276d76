"""Further pages of an admin beside its list, with the links between them, and their refresh."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _

from ..core.figures import Range
from .words import StrPromise

T = TypeVar("T")

REFRESH: Final = "X-Lambda-Tasks-Refresh"
"""The header with which a page's script asks for what has changed in it."""

SITEMAP: Final = (
    ("lambda_tasks_overview", _("Overview"), "taskrecord"),
    ("lambda_tasks_taskrecord_changelist", _("Runs"), "taskrecord"),
    ("lambda_tasks_queuestate_changelist", _("Queues"), "queuestate"),
    ("lambda_tasks_workflow_changelist", _("Workflows"), "workflow"),
    ("lambda_tasks_schedulestate_changelist", _("Schedules"), "schedulestate"),
    ("lambda_tasks_tasks", _("Tasks"), "taskrecord"),
)
"""The names of the pages' addresses, their titles, and the models that one needs to see."""


class PagesAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # not generic at run time in 5.2
    """An admin that has pages of its own beside those of Django."""

    class Media:
        css: ClassVar[dict[str, list[str]]] = {
            "all": ["lambda_tasks/admin.css", "lambda_tasks/charts.css"]
        }

    change_list_template = "lambda_tasks/list.html"
    change_form_template = "lambda_tasks/object.html"

    def page_urls(self) -> list[URLPattern]:
        """Return the addresses of the pages, which come before those of Django."""
        return []

    def get_urls(self) -> Any:
        """See ModelAdmin."""
        return [*self.page_urls(), *super().get_urls()]

    def page(
        self,
        request: HttpRequest,
        part: str,
        title: StrPromise,
        context: Mapping[str, Any],
        *,
        refreshes: bool = True,
    ) -> HttpResponse:
        """Return a page, or only what is to be replaced in it, if its script asks for that.

        `part` names the template of what changes.
        """
        request.current_app = self.admin_site.name
        template = f"lambda_tasks/parts/{part}.html"
        if REFRESH in request.headers:
            return TemplateResponse(request, template, dict(context))
        whole = self.admin_site.each_context(request) | {
            "title": title,
            "opts": self.opts,
            "media": self.media,
            "part": template,
            "refreshes": refreshes,
            **context,
        }
        return TemplateResponse(request, "lambda_tasks/page.html", whole)

    def url(self, name: str, *args: object) -> str:
        """Return the address of a page of this admin's site."""
        return reverse(f"{self.admin_site.name}:{name}", args=args)

    def may(self, request: HttpRequest, permission: str) -> bool:
        """Return whether the user has a permission on this model."""
        return may(request, permission, str(self.opts.model_name))


class PicturePages(PagesAdmin):
    """An admin whose objects' pages begin with a picture, which is refreshed until they end."""

    def picture(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """Return what the picture's template shows.

        `part` names the template, and `refreshes` says whether it changes by itself.
        """
        raise NotImplementedError

    def page_urls(self) -> list[URLPattern]:
        """See PagesAdmin."""
        view = self.admin_site.admin_view(self.picture_view)
        return [path("<uuid:id>/change/picture/", view), *super().page_urls()]

    def render_change_form(
        self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Render an object's page, with its picture."""
        context["picture"] = self.picture(request, context["original"])
        return super().render_change_form(request, context, *args, **kwargs)

    def picture_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        """Show what has changed of an object that has not ended; the whole page once it has."""
        obj = self.get_object(request, str(id))
        if not self.has_view_permission(request, obj):
            raise PermissionDenied
        picture = None if obj is None else self.picture(request, obj)
        if picture is None or not picture["refreshes"] or REFRESH not in request.headers:
            name = f"lambda_tasks_{self.opts.model_name}_change"
            return HttpResponseRedirect(self.url(name, id))
        return self.page(request, picture["part"], str(obj), {"picture": picture})


def read_once(obj: Any, read: Callable[[Any], T]) -> T:
    """Return what a function reads of an object, read once for each page that shows the object."""
    known: dict[Callable[[Any], Any], Any] = vars(obj).setdefault("read_for_page", {})
    if read not in known:
        known[read] = read(obj)
    found: T = known[read]
    return found


def may(request: HttpRequest, permission: str, model: str) -> bool:
    """Return whether the user has a permission on one of the library's models."""
    user: Any = request.user
    return bool(user.has_perm(f"lambda_tasks.{permission}_{model}"))


def may_view(request: HttpRequest, model: str) -> bool:
    """Return whether the user may see a model; as in Django, who may change it may see it."""
    return may(request, "view", model) or may(request, "change", model)


def links(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the links to all pages that the user may see, with which of them is shown now."""
    site = getattr(request, "current_app", None) or "admin"
    found: list[dict[str, Any]] = []
    for name, title, model in SITEMAP:
        if may_view(request, model) and (url := _url(site, name)):
            found.append({"title": title, "url": url})
    under: list[str] = [each["url"] for each in found if request.path.startswith(each["url"])]
    current = max(under, key=len, default=None)
    return [{**each, "is_current": each["url"] == current} for each in found]


def _url(site: str, name: str) -> str | None:
    """Return an address; None in an admin site in which its model is not registered."""
    try:
        return reverse(f"{site}:{name}")
    except NoReverseMatch:
        return None


def range_of(request: HttpRequest, default: Range) -> Range:
    """Return the range of time that an address asks for; the default for one that there is not."""
    asked = request.GET.get("range", "")
    return next((each for each in Range if each.value == asked), default)


RANGE_TITLES: Final = {
    Range.LAST_HOUR: _("1 hour"),
    Range.LAST_DAY: _("24 hours"),
    Range.LAST_WEEK: _("7 days"),
}


def ranges(request: HttpRequest, chosen: Range) -> list[dict[str, Any]]:
    """Return the links to the same page for each range of time."""
    return [
        {"title": title, "url": f"{request.path}?range={each.value}", "is_current": each is chosen}
        for each, title in RANGE_TITLES.items()
    ]
