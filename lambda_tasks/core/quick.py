"""Dataclasses of which each task makes several objects, and therefore quickly.

The `__init__` of a frozen dataclass sets each field by object.__setattr__(). With the 25 fields of
a message, that takes four times as long as assigning them.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

__all__ = ["quick_dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass as quick_dataclass
else:

    def quick_dataclass(*, frozen: bool, eq: bool = True, **options: Any) -> Any:
        """Decorate a class as dataclass(frozen=True) does, to be frozen for type checkers alone.

        Objects are hashable as those of frozen dataclasses are: by their fields, or with `eq=False`
        by identity. At run time an assignment is not refused, and a subclass must use this
        decorator, too.
        """
        return dataclasses.dataclass(eq=eq, unsafe_hash=frozen and eq, **options)
