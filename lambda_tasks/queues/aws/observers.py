"""Observers of a botocore client's requests: tracers that wrap its methods, and event hooks."""

from operator import is_not
from types import FunctionType
from typing import Any, Final

LIBRARIES: Final = frozenset({"aiobotocore", "botocore", __name__.partition(".")[0]})
"""The packages whose functions and hooks are no observers."""

CLIENT_METHODS: Final = ("_make_api_call", "_make_request")

ENDPOINT_METHODS: Final = ("make_request", "_send_request", "create_request", "prepare_request")

EVENTS: Final = (
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",
    "request-created",
    "choose-signer",
    "before-sign",
    "before-send",
    "response-received",
    "before-parse",
    "needs-retry",
    "after-call",
    "after-call-error",
)
"""The events of one request, in their order."""


class Observers:
    """The observers of one operation of a client.

    exist() looks at all of them, at a tenth of the cost of a lean request; have_changed() is cheap.
    """

    def __init__(self, client: Any, operation: str) -> None:
        self._emitter = getattr(client.meta.events, "_emitter", None)
        endpoint = getattr(client, "_endpoint", None)
        http = getattr(endpoint, "http_session", None)
        self._methods = [
            *((client, name) for name in CLIENT_METHODS),
            *((endpoint, name) for name in ENDPOINT_METHODS),
            (http, "send"),
        ]
        self._places = [(type(owner), name) for owner, name in self._methods]
        name = client.meta.method_to_api_mapping[operation]
        service = client.meta.service_model.service_id.hyphenize()
        self._operation = f"{service}.{name}"
        self._noted: tuple[object, list[object]] = (None, [])

    def event(self, kind: str) -> str:
        """Return the name of an event of the operation."""
        return f"{kind}.{self._operation}"

    def note(self) -> None:
        """Let have_changed() compare with the present state."""
        self._noted = self._current_hooks(), self._current_methods()

    def have_changed(self) -> bool:
        """Return whether hooks were added or removed, or methods wrapped, since note().

        Also returns True while a wrapper makes a new object of itself at each access.
        """
        hooks, methods = self._noted
        # By identity: a wrapper may say that it is equal to what it wraps.
        return self._current_hooks() is not hooks or any(
            map(is_not, self._current_methods(), methods)
        )

    def exist(self) -> bool:
        """Return whether somebody has wrapped the client's methods, or added hooks."""
        return not all(_is_original(owner, name) for owner, name in self._methods) or any(
            map(self._has_foreign_hook, EVENTS)
        )

    def _current_hooks(self) -> object:
        # The emitter replaces this cache whenever a hook is added or removed.
        return getattr(self._emitter, "_lookup_cache", None)

    def _current_methods(self) -> list[object]:
        return [getattr(owner, name, None) for owner, name in self._places]

    def _has_foreign_hook(self, kind: str) -> bool:
        hooks = getattr(self._emitter, "_handlers", None)
        return hooks is None or not all(map(_is_own, hooks.prefix_search(self.event(kind))))


def _is_original(owner: object, name: str) -> bool:
    function = getattr(type(owner), name, None)
    # Not isinstance(), nor __module__: wrappers pretend to be what they wrap.
    return (
        type(function) is FunctionType
        and _is_library(function.__globals__["__name__"])
        and name not in vars(owner)
    )


def _is_own(hook: object) -> bool:
    return _is_library(getattr(hook, "__module__", None) or "")


def _is_library(module_name: str) -> bool:
    return module_name.partition(".")[0] in LIBRARIES
