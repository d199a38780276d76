"""The texts of the package that can be translated, as its code and its templates have them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from django.utils.translation.template import templatize

PACKAGE: Final = Path(__file__).parent.parent / "lambda_tasks"
LANGUAGES: Final = ("de", "ja")

FORMS: Final = {
    "_": ("id",), "gettext": ("id",), "gettext_lazy": ("id",), "ngettext": ("id", "plural"),
    "ngettext_lazy": ("id", "plural"), "pgettext": ("context", "id"),
    "pgettext_lazy": ("context", "id"), "npgettext": ("context", "id", "plural"),
}  # fmt: skip
"""The functions that mark texts, and what their first arguments are."""

CALL: Final = re.compile(
    r"\b(?:n?p?gettext|_)\((?:[^()'\"]|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")*\)"
)


class Text(NamedTuple):
    """A text to translate."""

    id: str
    plural: str | None = None
    context: str | None = None


def texts() -> set[Text]:
    """Return all texts of the package."""
    found: set[Text] = set()
    for file in PACKAGE.rglob("*.py"):
        found.update(_marked(ast.parse(file.read_text())))
    for file in PACKAGE.rglob("*.html"):
        for call in CALL.finditer(templatize(file.read_text(), origin=str(file))):
            found.update(_marked(ast.parse(call.group().replace("u'", "'"))))
    return found


def _marked(tree: ast.AST) -> Iterator[Text]:
    """Yield the texts that are marked in Python code."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        names = FORMS.get(node.func.id, ())
        values = [each.value for each in node.args if isinstance(each, ast.Constant)]
        if (
            names
            and len(values) >= len(names)
            and all(isinstance(v, str) for v in values[: len(names)])
        ):
            yield Text(**dict(zip(names, map(str, values), strict=False)))
