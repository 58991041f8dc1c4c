"""Columns of SQLite as SQL for what an event holds, whatever a row has stored in them.

A column is expected to hold one storage class, which its declared type says. A value of another class becomes
one that the event's field does not allow, and says which it was: the row is then an irregular one (see
:mod:`.sqlite_arrow`), told from all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

INTEGER, REAL, TEXT, BLOB = "integer", "real", "text", "blob"
UNKNOWN_SQL = "(-9223372036854775807 - 1)"
_DIGITS = "[0-9][0-9]"
_MOMENT = f"{_DIGITS}{_DIGITS}-{_DIGITS}-{_DIGITS}[T ]{_DIGITS}:{_DIGITS}:{_DIGITS}"


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def class_of(declared: str) -> str:
    """The storage class that a column is for, much by SQLite's rules of affinity; JSON is text. Empty where
    nothing is declared."""
    kind = declared.upper()
    for parts, found in (
        (("INT",), INTEGER),
        (("CHAR", "CLOB", "TEXT", "JSON"), TEXT),
        (("BLOB",), BLOB),
        (("REAL", "FLOA", "DOUB"), REAL),
    ):
        if any(part in kind for part in parts):
            return found
    return TEXT if kind else ""


def said(column: str, before: str = "", after: str = "", null: str = "NULL") -> str:
    """A value as text that tells it from every other: its class, and integers in decimal, reals as SQL
    literals, text and blobs in hex; with what stands before and after it, parts of an SQL literal."""
    values = {INTEGER: column, REAL: f"quote({column})", TEXT: f"hex({column})", BLOB: f"hex({column})"}
    cases = (
        f"WHEN '{kind}' THEN '{before}{kind}:' || {value} || '{after}'" for kind, value in values.items()
    )
    return f"CASE typeof({column}) {' '.join(cases)} ELSE {null} END"


def text_of(column: str, kind: str) -> str:
    """Text as it is stored; integers in decimal, blobs as hex digits where the column is for these. Other
    values are no text."""
    if kind == INTEGER:
        return expected(column, INTEGER, f"CAST({column} AS TEXT)", f"CAST({said(column)} AS BLOB)")
    if kind == BLOB:
        return expected(column, BLOB, f"lower(hex({column}))", f"CAST({said(column)} AS BLOB)")
    return column


def bytes_of(column: str, kind: str) -> str:
    """Blobs as they are stored, or text in UTF-8 where the column is for text. Other values are no blob."""
    if kind in (BLOB, ""):
        return column
    return expected(column, TEXT, f"CAST({column} AS BLOB)", said(column))


def expected(column: str, kind: str, good: str, other: str) -> str:
    """SQL for a value of this storage class, and for one of another."""
    return f"CASE typeof({column}) WHEN '{kind}' THEN {good} WHEN 'null' THEN NULL ELSE {other} END"


def integer_of(column: str, factor: int = 1) -> str:
    """Integers times a factor, but UNKNOWN: it, and what is beyond 64 bits, is no integer."""
    most = (2**63 - 1) // factor
    inside = f"typeof({column}) = 'integer' AND {column} BETWEEN {-most} AND {most}"
    return f"CASE WHEN {inside} THEN {column} * {factor} WHEN {column} IS NOT NULL THEN {said(column)} END"


def micros_of_text(column: str) -> str:
    """Microseconds since 1970 of an ISO 8601 text, null for any other value; without a zone it is UTC. What
    is below a microsecond is dropped."""
    digits = f"substr({column}, 21, 1) BETWEEN '0' AND '9'"
    zone = (
        f"CASE WHEN substr({column}, 20, 1) <> '.' THEN substr({column}, 20) "
        f"WHEN {digits} THEN ltrim(substr({column}, 21), '0123456789') ELSE '?' END"
    )
    fraction = (
        f"CASE substr({column}, 20, 1) WHEN '.' "
        f"THEN CAST(round(CAST(substr({column}, 20, 7) AS REAL) * 1000000) AS INTEGER) ELSE 0 END"
    )
    seconds = f"CAST(strftime('%s', substr({column}, 1, 19) || {zone}) AS INTEGER)"  # null for no such zone
    return (
        f"CASE WHEN typeof({column}) = 'text' AND {column} GLOB '{_MOMENT}*' "
        f"THEN {seconds} * 1000000 + {fraction} END"
    )


def json_of(names: Iterable[str]) -> str:
    """SQL for a JSON object over these columns, as a blob: each value as :func:`said` has it."""
    pairs = [said(quoted(name), f'{_key(name)}:"', '"', f"'{_key(name)}:\"null:\"'") for name in names]
    return "CAST('{' || " + " || ',' || ".join(pairs) + " || '}' AS BLOB)" if pairs else "NULL"


def json_of_present(names: Iterable[str]) -> str:
    """The same without the columns that are null, so that one which is added to the table later, without a
    default, changes no row."""
    pairs = [said(quoted(name), f',{_key(name)}:"', '"', "''") for name in names]
    return "CAST('{' || substr(" + " || ".join(["''", *pairs]) + ", 2) || '}' AS BLOB)"


def _key(name: str) -> str:
    return json.dumps(name).replace("'", "''")
