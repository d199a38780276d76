"""Writes docs/log-messages.md: the library's own log messages, by level, as the code has them.

Run `python -m docs.log_messages` after a change of one; a test compares the page with the code.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lambda_tasks"
PAGE = Path(__file__).with_name("log-messages.md")
LEVELS = {"ERROR": "exception error", "WARNING": "warning", "INFO": "info", "DEBUG": "debug"}
LEVEL_OF = {method: level for level, methods in LEVELS.items() for method in methods.split()}
OF_RUNS = "lambda_tasks.task"
PLACEHOLDER = re.compile(r"%(?:\.\d+)?[sdrgf]|\{[^}]*\}")

HEAD = """\
# Log messages

These are the library's own messages, by level. `…` stands for what differs: an id, a name, a time.
The logger is `lambda_tasks`; for those marked *run* it is `lambda_tasks.task`. Each says what
happened and, where you can do something, what.

Texts may change in any release. So filter by level, logger and [attributes](watching.md#logs),
for which there are queries.
"""


@dataclass(frozen=True, order=True)
class Message:
    text: str
    level: str
    is_of_run: bool


def messages() -> set[Message]:
    """Return all messages that the package's modules log."""
    return set(calls())


def calls() -> Iterator[Message]:
    """Yield the message of each call that logs one."""
    for path in PACKAGE.rglob("*.py"):
        yield from _messages_of(path)


def page() -> str:
    """Return the page's text."""
    by_level: defaultdict[str, list[Message]] = defaultdict(list)
    for each in sorted(messages(), key=lambda message: message.text.lstrip("[…] ").lower()):
        by_level[each.level].append(each)
    return HEAD + "".join(_section(level, by_level[level]) for level in LEVELS)


def _section(level: str, of_level: list[Message]) -> str:
    rows = (f"| {each.text} | {'run' if each.is_of_run else ''} |" for each in of_level)
    return "\n".join((f"\n## {level}\n", "| message | |", "|---|---|", *rows, ""))


def _messages_of(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    constants = dict(_constants_of(tree))
    is_of_run = f'getLogger("{OF_RUNS}")' in path.read_text()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (found := _level_and_text(node)) is not None:
            level, text = found
            if isinstance(text, ast.Name):
                text = constants.get(text.id, text)
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield Message(_shown(text.value), level, is_of_run)


def _constants_of(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(name)], value):
                yield name, value
            case ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                yield name, value


def _level_and_text(call: ast.Call) -> tuple[str, ast.expr] | None:
    """Return the level and the text's expression of a call that logs; None for another one."""
    function, arguments = ast.unparse(call.func), call.args
    if function == "log_error":
        return "ERROR", arguments[2]
    owner, _, method = function.rpartition(".")
    if owner not in ("logger", "logging.getLogger('lambda_tasks')"):
        return None
    if method == "log":  # the first time a warning, later only information
        return "WARNING", arguments[1]
    return (LEVEL_OF[method], arguments[0]) if method in LEVEL_OF else None


def _shown(text: str) -> str:
    text = PLACEHOLDER.sub("…", text).replace("%%", "%")
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page())
