"""The fleet as text: a summary, and a line for each device that fits the room there is."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eventchain.cli.common import about, counted, duration, printable, quantity

GAP = "  "
SHORTEST = 10
"""To so many characters a column may be cut before others are left out."""
MAX_STATE = 60


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else duration(seconds)


def _state(row: Mapping[str, Any]) -> str:
    if row["shut_out"] is not None:
        return f"shut out: {row['shut_out']}"[:MAX_STATE]
    return "" if row["there"] else "gone"


COLUMNS: dict[str, tuple[Callable[[Mapping[str, Any]], str], bool]] = {
    "worker": (lambda row: row["worker"], False),
    "group": (lambda row: row["group"], False),
    "device": (lambda row: row["device"], False),
    "rate": (lambda row: quantity(row["rate"], "H/s"), True),
    "pieces": (lambda row: f"{row['pieces']:,}", True),
    "errors": (lambda row: f"{row['errors']:,}", True),
    "seen": (lambda row: f"{_age(row['seen'])} ago", True),
    "": (_state, False),
}
"""Heading to what stands under it, and whether that is a number."""
ELASTIC = ("device", "")
LEFT_OUT = ("group", "errors", "pieces", "device", "seen", "rate")
"""Where there is no room, in this order."""


def shown(facts: Mapping[str, Any], width: int, height: int | None = None) -> list[str]:
    """Lines of at most ``width`` characters, and no more than ``height`` where it is given."""
    rows = facts["workers"]
    lines = textwrap.wrap(_summary(facts), width)[:height]
    if not rows or (height is not None and height - len(lines) < 2):
        return lines
    room = len(rows) if height is None else height - len(lines) - 1  # less the headings
    if len(rows) > room:
        room -= 1
    lines += _table(rows[:room], width)
    if len(rows) > room:
        lines.append(f"and {counted(len(rows) - room, 'more device')}"[:width])
    return lines


def _summary(facts: Mapping[str, Any]) -> str:
    workers = {(row["group"], row["worker"]) for row in facts["workers"] if row["there"]}
    text = f"{counted(len(workers), 'worker')}, {quantity(facts['rate'], 'H/s')}"
    text += f"; {counted(len(facts['coordinators']), 'coordinator')}"
    text += f", {counted(facts['pieces_out'], 'piece')} out"
    if facts["hashes_left"] is not None:
        left = facts["seconds_left"]
        text += f"; {quantity(facts['hashes_left'], 'hashes')} to go"
        text += f", {about(left)}" if left is not None else ""
    return text


def _table(rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    cells = {name: [name, *(printable(cell(row)) for row in rows)] for name, (cell, _) in COLUMNS.items()}
    widths = {name: wide for name, column in cells.items() if (wide := max(map(len, column)))}
    for name in LEFT_OUT:
        to_spare = sum(max(0, widths[one] - SHORTEST) for one in ELASTIC if one in widths)
        if _over(widths, width) <= to_spare:
            break
        del widths[name]
    for name in ELASTIC:
        if name in widths:
            widths[name] -= max(0, min(_over(widths, width), widths[name] - SHORTEST))
    columns = [[_cell(name, text, wide) for text in cells[name]] for name, wide in widths.items()]
    return [GAP.join(line)[:width].rstrip() for line in zip(*columns, strict=True)]


def _over(widths: Mapping[str, int], width: int) -> int:
    """By how much the columns are too wide."""
    return sum(widths.values()) + len(GAP) * (len(widths) - 1) - width


def _cell(name: str, text: str, width: int) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if COLUMNS[name][1] else text.ljust(width)
