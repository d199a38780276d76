"""The part of CloudWatch Logs Insights' language that the documentation's queries use.

It is a stand-in: whether AWS reads a query in the same way, only AWS can say. It finds queries
whose fields no line has, and queries that do not parse.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Any

Row = dict[str, Any]

NAME = r"@?[A-Za-z_][\w.]*"
CALL = re.compile(rf"(?P<function>\w+)\((?P<of>[^)]*)\)(?: as (?P<name>{NAME}))?")
REPORT = re.compile(r"Init Duration: (?P<ms>[\d.]+) ms")


def rows_of(lines: Iterable[str]) -> list[Row]:
    """Return the fields that CloudWatch discovers in log lines: JSON's, and those of a REPORT."""
    return [_row(line) for line in lines]


def _row(line: str) -> Row:
    row: Row = {"@message": line}
    if line.startswith("REPORT "):
        row["@type"] = "REPORT"
        if found := REPORT.search(line):
            row["@initDuration"] = float(found["ms"])
        return row
    row |= _flat(json.loads(line))
    return row | {"@timestamp": row.get("timestamp") or row.get("time")}


def _flat(content: Mapping[str, Any], prefix: str = "") -> Row:
    row: Row = {}
    for key, value in content.items():
        row |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return row


def run(query: str, rows: list[Row]) -> list[Row]:
    """Return what a query finds. Raises ValueError where it can't be read."""
    for step in query.strip().split("\n| "):
        command, _, rest = step.partition(" ")
        rows = COMMANDS[command](rest, rows)
    return rows


def _filter(conditions: str, rows: list[Row]) -> list[Row]:
    for each in conditions.split(" and "):
        if found := re.fullmatch(rf'({NAME}) = "([^"]*)"', each):
            name, value = found.groups()
            rows = [row for row in rows if row.get(name) == value]
        elif found := re.fullmatch(rf"ispresent\(({NAME})\)", each):
            rows = [row for row in rows if row.get(found[1]) is not None]
        else:
            raise ValueError(f"This condition can't be read: {each}")
    return rows


def _fields(names: str, rows: list[Row]) -> list[Row]:
    if found := re.fullmatch(rf'strcontains\(({NAME}), "([^"]*)"\) as ({NAME})', names):
        field, text, name = found.groups()
        return [row | {name: int(text in row[field])} for row in rows]
    chosen = names.split(", ")
    if not all(re.fullmatch(NAME, each) for each in chosen):
        raise ValueError(f"These fields can't be read: {names}")
    return [row | {each: row.get(each) for each in chosen} for row in rows]


def _stats(text: str, rows: list[Row]) -> list[Row]:
    aggregates, _, by = text.partition(" by ")
    groups: defaultdict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups["" if by.startswith("bin(") else row.get(by)].append(row)
    calls = list(CALL.finditer(aggregates))
    if ", ".join(each[0] for each in calls) != aggregates:
        raise ValueError(f"These statistics can't be read: {aggregates}")
    return [
        {by: key}
        | {each["name"]: _aggregate(each["function"], each["of"], group) for each in calls}
        for key, group in groups.items()
    ]


def _aggregate(function: str, of: str, group: list[Row]) -> Any:
    field, *percent = of.split(", ")
    values = [row[field] for row in group if row.get(field) is not None]
    match function:
        case "count":
            return len(group) if of == "*" else len(values)
        case "avg":
            return sum(values) / len(values)
        case "max":
            return max(values, default=None)
        case "pct":
            return sorted(values)[ceil(len(values) * float(percent[0]) / 100) - 1]
    raise ValueError(f"{function} is no function of this stand-in.")


def _sort(text: str, rows: list[Row]) -> list[Row]:
    field, _, order = text.partition(" ")
    return sorted(rows, key=lambda row: row[field], reverse=order == "desc")


COMMANDS: dict[str, Callable[[str, list[Row]], list[Row]]] = {
    "fields": _fields,
    "filter": _filter,
    "sort": _sort,
    "stats": _stats,
}
