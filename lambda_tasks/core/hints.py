"""The annotations of a function, each resolved by itself.

A function may have some that can't be resolved at run time, such as a return annotation whose
import is under TYPE_CHECKING. They must not stand in the way of the others.
"""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_type_hints


def resolve_hint(func: Callable[..., Any], name: str) -> Any:
    """Return the type of a parameter's annotation, or of "return".

    Raises TypeError where a name in it is not there at run time.
    """
    function: Any = inspect.unwrap(func)
    annotation = function.__annotations__[name]
    holder = SimpleNamespace(
        __annotations__={name: annotation},
        __type_params__=getattr(function, "__type_params__", ()),
    )
    try:
        hints = get_type_hints(holder, globalns=function.__globals__, include_extras=True)
    except NameError as error:
        where = "return annotation" if name == "return" else f"annotation of {name!r}"
        raise TypeError(
            f"{func.__qualname__}: the {where} is {annotation!r}, and {error}. The worker reads "
            "it at run time, so import its names outside of `if TYPE_CHECKING:`."
        ) from error
    return hints[name]
