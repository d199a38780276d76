"""The annotations of a function, each resolved by itself.

A function may have some that can't be resolved at run time, such as a return annotation whose
import is under TYPE_CHECKING. They must not stand in the way of the others.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, get_type_hints


class UnresolvedHint(TypeError):
    """An annotation has a name that is not there at run time, or not there yet."""


def annotations_of(func: Callable[..., Any]) -> Mapping[str, Any]:
    """Return a function's annotations as they stand there, resolved or not."""
    if sys.version_info >= (3, 14):  # they may name what only a type checker imports
        from annotationlib import Format, get_annotations

        return get_annotations(func, format=Format.FORWARDREF)
    return func.__annotations__


def parameters_of(func: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return a function's parameters, by their names and in their order."""
    return signature_of(func).parameters


def signature_of(func: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature; its annotations need not be there at run time."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        return inspect.signature(func, annotation_format=Format.FORWARDREF)
    return inspect.signature(func)


def resolve_hint(func: Callable[..., Any], name: str) -> Any:
    """Return the type of a parameter's annotation, or of "return".

    Raises TypeError where a name in it is not there at run time.
    """
    function: Any = inspect.unwrap(func)
    annotation = annotations_of(function)[name]
    holder = SimpleNamespace(
        __annotations__={name: annotation},
        __type_params__=getattr(function, "__type_params__", ()),
    )
    try:
        hints = get_type_hints(holder, globalns=function.__globals__, include_extras=True)
    except NameError as error:
        where = "return annotation" if name == "return" else f"annotation of {name!r}"
        raise UnresolvedHint(
            f"{func.__qualname__}: the {where} is {annotation!r}, and {error}. The worker reads "
            "it at run time, so import its names outside of `if TYPE_CHECKING:`."
        ) from error
    return hints[name]
