"""The check at the call whether a parameter can take the result of another step."""

from types import NoneType
from typing import Any, Final, get_origin

GROUP_RESULT: Final = "the results of a group"
"""Stands for the annotation of the results of a group."""

GROUP_TYPE: Final = "lambda_tasks.workflows.Results"
"""The name of the type of a parameter that takes them. It stands above the core."""

PLAIN: Final = (bool, int, float, str, list, dict, NoneType)
"""Types that have one form in JSON each."""

WIDER: Final = {(int, float)}
"""Pairs of plain types of which the second takes values of the first."""


def check_reference(function: str, name: str, parameter: Any, result: Any) -> None:
    """Raise TypeError where a parameter can't take any result with this annotation.

    Where annotations are not plain types, only the run can tell.
    """
    takes_group, is_group = _is_group_type(parameter), result == GROUP_RESULT
    if takes_group and not is_group:
        raise TypeError(
            f"{function}: the parameter {name!r} takes the results of a group. Pass "
            "`group.results`, or annotate it with the type of the step's result."
        )
    if is_group and not takes_group and parameter is not Any:
        raise TypeError(
            f"{function}: the parameter {name!r} gets the results of a group. Annotate it with "
            f"Results, for example `{name}: Results[int]`."
        )
    given, taken = _plain(result), _plain(parameter)
    if given is None or taken is None or given is taken or (given, taken) in WIDER:
        return
    raise TypeError(
        f"{function}: the parameter {name!r} is a {taken.__name__}, and the result that is passed "
        f"for it is a {given.__name__}. Change one of the annotations, or pass another result."
    )


def _is_group_type(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}" == GROUP_TYPE


def _plain(hint: Any) -> type | None:
    kind = NoneType if hint is None else get_origin(hint) or hint
    return kind if kind in PLAIN else None
