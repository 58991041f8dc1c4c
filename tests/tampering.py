"""What an administrator can do to a row with plain SQL: every kind of edit, for any column of any table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

I64 = 2**63


class Column(NamedTuple):
    table: str
    name: str
    type: str
    nullable: bool
    strict: bool


class Edit(NamedTuple):
    """``how`` the value is changed, and to what; ``sql`` is the expression that holds the value."""

    how: str
    value: Any
    sql: str = "?"


def columns(file: Path) -> list[Column]:
    """Every column of every table of a database, from the database itself."""
    query = """
        SELECT t.name, c.name, c.type, NOT c."notnull" AND NOT c.pk, t.strict
        FROM pragma_table_list AS t JOIN pragma_table_info(t.name) AS c
        WHERE t.schema = 'main' AND t.type = 'table' AND t.name NOT LIKE 'sqlite_%' ORDER BY t.name, c.cid
    """
    with closing(sqlite3.connect(file)) as connection:
        return [
            Column(table, name, kind, bool(null), bool(strict))
            for table, name, kind, null, strict in connection.execute(query)
        ]


def edits(column: Column, old: Any) -> Iterator[Edit]:
    """Values to put in the place of ``old``, none of them equal to it."""
    if column.nullable and old is not None:
        yield Edit("null", None)
    if isinstance(old, int):
        yield from (Edit("one more", min(old + 1, I64 - 1)), Edit("one less", max(old - 1, -I64)))
        yield from (Edit("highest", I64 - 1), Edit("lowest", -I64), Edit("minus one", -1 - (old == -1)))
    elif isinstance(old, str):
        yield from (Edit("longer", old + "x"), Edit("empty", ""), Edit("other", "x" + old[1:]))
        yield from (Edit("truncated", old[:-1]), Edit("huge", old + "y" * 70_000), Edit("NUL", old + "\0"))
        yield Edit("not UTF-8", old.encode() + b"\xff\xfe", "CAST(? AS TEXT)")
        yield Edit("upper case", old.upper())
    else:
        raw = old or b""
        yield from (Edit("empty" if raw else "emptied", b""), Edit("longer", raw + b"\0"))
        if raw:
            middle = len(raw) // 2
            yield Edit("first bit flipped", bytes([raw[0] ^ 1]) + raw[1:])
            yield Edit("middle bit flipped", raw[:middle] + bytes([raw[middle] ^ 0x80]) + raw[middle + 1 :])
            yield Edit("last bit flipped", raw[:-1] + bytes([raw[-1] ^ 1]))
            yield from (Edit("truncated", raw[:-1]), Edit("halved", raw[:middle]))
            yield Edit(
                "zeroed" if any(raw) else "filled", bytes(len(raw)) if any(raw) else b"\xff" * len(raw)
            )
    if isinstance(old, bytes) and b"\nheight " in old:
        yield from manifest_edits(old)
    if not column.strict:
        yield from (Edit("as text", str(old)), Edit("as blob", str(old).encode()), Edit("as real", 1.5))


def manifest_edits(old: bytes) -> Iterator[Edit]:
    """What a manifest says, changed so that it may still be read."""
    lines = old.decode().split("\n")
    for number, line in enumerate(lines[:-1]):
        key = line.split(" ")[0] if number > 2 else ("origin", "size", "root")[number]
        before, after = lines[:number], lines[number + 1 :]
        other = line.replace("1", "0") if "1" in line else line[:-1] + ("3" if line[-1] != "3" else "4")
        for how, instead in (("altered", [other]), ("dropped", []), ("twice", [line, line])):
            yield Edit(f"{key} {how}", "\n".join([*before, *instead, *after]).encode())
    yield Edit("a line more", old + b"note all is well\n")
    yield Edit("size grown", old.replace(b"\n" + lines[1].encode(), b"\n9" + lines[1].encode(), 1))


def change(file: Path, column: Column, rowid: Sequence[Any], keys: Sequence[str], edit: Edit) -> bool:
    """Whether the database let it be changed to something else."""
    where = " AND ".join(f"{key} = ?" for key in keys)
    with closing(sqlite3.connect(file)) as connection:
        connection.text_factory = bytes
        read = f'SELECT typeof("{column.name}"), "{column.name}" FROM "{column.table}" WHERE {where}'
        before = connection.execute(read, rowid).fetchone()
        everything = connection.execute(f'SELECT "{column.name}" FROM "{column.table}"').fetchall()
        try:
            write = f'UPDATE "{column.table}" SET "{column.name}" = {edit.sql} WHERE {where}'
            connection.execute(write, [edit.value, *rowid])
        except sqlite3.IntegrityError:  # a UNIQUE, NOT NULL or STRICT column refuses it: no tampering
            return False
        connection.commit()
        after = connection.execute(f'SELECT "{column.name}" FROM "{column.table}"').fetchall()
        return bool(before) and sorted(map(repr, everything)) != sorted(map(repr, after))


def rows(file: Path, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The key columns of a table (its row number where it has none) and every row's key, in order."""
    with closing(sqlite3.connect(file)) as connection:
        info = connection.execute(f'SELECT name FROM pragma_table_info("{table}") WHERE pk ORDER BY pk')
        keys = [name for (name,) in info] or ["_rowid_"]
        listed = ", ".join(keys)
        return keys, connection.execute(f'SELECT {listed} FROM "{table}" ORDER BY {listed}').fetchall()


def value(file: Path, table: str, name: str, keys: Sequence[str], row: Sequence[Any]) -> Any:
    where = " AND ".join(f"{key} = ?" for key in keys)
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(f'SELECT "{name}" FROM "{table}" WHERE {where}', row).fetchone()[0]
