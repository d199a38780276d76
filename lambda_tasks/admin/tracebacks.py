"""A traceback whose frames of libraries are folded, so that the project's own stand out."""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import ngettext

FRAME: Final = re.compile(r'^[\s|+]*File "(?P<file>.*?)", line \d+')
"""The first line of a frame; in an exception group it stands behind a bar."""

LIBRARY: Final = re.compile(
    r"[/\\](site-packages|dist-packages|python3(\.\d+)?|lambda_tasks)[/\\]|^<frozen "
)
"""The files that are not the project's own."""


def folded(text: str) -> SafeString:
    """Return a traceback with each run of frames of libraries folded."""
    parts = []
    for is_library, blocks in groupby(_blocks(text), key=lambda block: block[0]):
        lines = [line for _, block in blocks for line in block]
        n_frames = sum(FRAME.match(line) is not None for line in lines)
        if is_library and n_frames:
            told = ngettext("%d frame of libraries", "%d frames of libraries", n_frames) % n_frames
            parts.append(format_html(
                "<details><summary>{}</summary><pre>{}</pre></details>", told, "\n".join(lines)
            ))  # fmt: skip
        else:
            parts.append(format_html("<pre>{}</pre>", "\n".join(lines)))
    whole = format_html_join("", "{}", ((each,) for each in parts))
    return format_html('<div class="lt-traceback">{}</div>', whole)


def _blocks(text: str) -> Iterator[tuple[bool, list[str]]]:
    """Yield frames with their lines, and other lines; each with whether it is a library's."""
    block: list[str] = []
    is_library = False
    for line in text.splitlines():
        frame = FRAME.match(line)
        indent = len(line) - len(line.lstrip(" |+"))
        goes_on = (
            bool(block) and frame is None and FRAME.match(block[0]) and indent > _indent(block)
        )
        if not goes_on:
            if block:
                yield is_library, block
            block, is_library = [], bool(frame and LIBRARY.search(frame["file"]))
        block.append(line)
    if block:
        yield is_library, block


def _indent(block: list[str]) -> int:
    return len(block[0]) - len(block[0].lstrip(" |+"))
