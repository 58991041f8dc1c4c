"""What the administrator of another application's store runs to erase events there."""

from __future__ import annotations

from collections.abc import Sequence

Ranges = Sequence[tuple[int, int]]


def among(column: str, ranges: Ranges) -> str:
    """SQL: whether a column is in one of the ranges, both ends counted."""
    singles = [str(first) for first, last in ranges if first == last]
    parts = [f"{column} BETWEEN {first} AND {last}" for first, last in ranges if first != last]
    if singles:
        parts.append(f"{column} IN ({', '.join(singles)})")
    return "\n   OR ".join(parts)


def erasing(table: str, columns: Sequence[str], position: str, ranges: Ranges) -> str:
    """SQL that makes the columns null, or deletes the rows where there are none to make null."""
    values = ", ".join(f"{column} = NULL" for column in columns)
    what = f"UPDATE {table} SET {values}" if columns else f"DELETE FROM {table}"
    return f"{what}\nWHERE {among(position, ranges)};"
