"""Tables as Markdown, and the file that holds those of all benchmarks."""

import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path


def say(text: str) -> None:
    """Tell who waits how far it is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also one to the eye; all columns but the first are numbers."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    rule = ["-" * widths[0], *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    lines = [_line(head, widths), f"| {' | '.join(rule)} |"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)])


def conditions(versions: Mapping[str, str | None]) -> str:
    """When, on what, and with which versions."""
    known = {"Python": platform.python_version(), **versions}
    named = ", ".join(f"{name} {version}" for name, version in known.items() if version)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {cpus} CPUs, "
        f"{named}."
    )


def write_section(directory: Path, title: str, text: str) -> Path:
    """Put a section into results.md, in the place of the one with its title."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "results.md"
    sections = _sections(path.read_text() if path.exists() else "")
    sections[title] = text.strip()
    path.write_text(
        "\n\n".join(["# Results", *(f"## {each}\n\n{sections[each]}" for each in sorted(sections))])
        + "\n"
    )
    return path


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return f"| {' | '.join([first, *rest])} |"


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {title: body.strip() for title, body in zip(parts[::2], parts[1::2], strict=True)}
