"""Any append-only table of an SQLite file, by a mapping."""

from __future__ import annotations

import sqlite3
from typing import Any

from eventchain.errors import StoreError
from eventchain.eventstores.erasing import Ranges, erasing
from eventchain.eventstores.mapping import UNITS, load_mapping
from eventchain.eventstores.open import parse_file_url
from eventchain.eventstores.sqlite_arrow import EventTable
from eventchain.eventstores.sqlite_columns import (
    INTEGER,
    TEXT,
    UNKNOWN_SQL,
    bytes_of,
    class_of,
    expected,
    integer_of,
    json_of_present,
    micros_of_text,
    quoted,
    said,
    text_of,
)
from eventchain.eventstores.sqlite_file import SQLiteFile, columns


class MappedSQLiteStore(SQLiteFile):
    """``table+sqlite:///path?mapping=FILE.toml``, read only; or a preset's name in place of the file.
    ``?table=`` comes before what the mapping says. The position is the table's INTEGER PRIMARY KEY.

    Declaration 1, for the mapping whose digest stands in ``source``. What a column is expected to hold, its
    declared type says (:func:`.sqlite_columns.class_of`). Text fields: text, integers in decimal or blobs as
    hex digits, several joined with ``/``. Data: blobs, or text in UTF-8. Metadata: one column, as data; or a
    JSON object (:func:`.sqlite_columns.json_of_present`).
    """

    def __init__(self, url: str) -> None:
        self._mapping = load_mapping(parse_file_url(url, "table", "mapping").options.get("mapping", ""))
        self.source = f"table-sqlite/1-{self._mapping.digest()}"
        super().__init__(url, "table", "mapping")

    def _table(self, connection: sqlite3.Connection) -> EventTable:
        mapping = self._mapping
        table = self._options.get("table") or mapping.table
        classes = {name: class_of(kind) for name, kind in columns(connection, self._path, table).items()}
        where = f"the table {table} in {self._path}"
        texts = [mapping.time] if mapping.time and mapping.time_format == "iso" else []
        listed = mapping.covering(list(classes), texts, where)
        key = connection.execute("SELECT name FROM pragma_table_info(?) WHERE pk", (table,)).fetchall()
        own = "SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'"
        if key != [(mapping.position,)] or connection.execute(own, (table,)).fetchone():
            raise StoreError(  # with an index of its own the key is not the row's number
                f"{mapping.at('position')}: {mapping.position!r} does not number the rows of {where}",
                hint="a position is the INTEGER PRIMARY KEY",
            )
        if mapping.listed is not None:
            metadata = json_of_present(listed)
        else:
            metadata = _bytes(mapping.metadata, classes)
        return EventTable(
            table=f"main.{quoted(table)}",
            position=quoted(mapping.position),
            stream=self._text("stream", mapping.stream, classes),
            version=self._version(classes, where),
            id=self._text("id", mapping.id, classes),
            type=self._text("type", (mapping.type,), classes),
            time=self._time(classes, where),
            data=_bytes(mapping.data, classes),
            metadata=metadata,
        )

    def _text(self, key: str, names: tuple[str, ...], classes: dict[str, str]) -> str:
        *first, last = names
        before = "".join(f"ifnull({text_of(quoted(name), classes[name])}, '') || '/' || " for name in first)
        text = before + text_of(quoted(last), classes[last])
        nullable = key in self._mapping.nullable
        if first or nullable:  # what is done to them here would make text of values that are none
            other = f"CAST({before}{said(quoted(last))} AS BLOB)"
            text = expected(quoted(last), classes[last] or TEXT, text, other)
        if nullable:  # what a null reads as, nothing else does
            text = f"CASE WHEN ({text}) IS NULL THEN '' WHEN ({text}) = '' THEN x'' ELSE {text} END"
        return text

    def _version(self, classes: dict[str, str], where: str) -> str:
        name = self._mapping.version
        if name is None:
            return UNKNOWN_SQL
        if classes[name] not in (INTEGER, ""):
            raise StoreError(
                f"{self._mapping.at('version')}: {name!r} of {where} is not declared as an integer",
                hint="a version is one; leave `version` out and put the column into `metadata`",
            )
        return self._number("version", name, 1)

    def _time(self, classes: dict[str, str], where: str) -> str:
        name, kind = self._mapping.time, self._mapping.time_format
        if name is None:
            return UNKNOWN_SQL
        column = quoted(name)
        if kind == "iso" and classes[name] in (TEXT, ""):
            text = f"ifnull({micros_of_text(column)}, {UNKNOWN_SQL})"
            return (
                text if "time" in self._mapping.nullable else f"CASE WHEN {column} NOT NULL THEN {text} END"
            )
        if kind in UNITS and classes[name] in (INTEGER, ""):
            return self._number("time", name, UNITS[kind])
        raise StoreError(
            f"{self._mapping.at('time')}: {name!r} of {where} is for {classes[name] or 'any'} values"
            + (f", which are not {kind}" if kind else ""),
            hint='text has time_format = "iso", integers the unit in which they count; leave `time` out and '
            "put the column into `metadata` where it is something else",
        )

    def _number(self, key: str, name: str, factor: int) -> str:
        """A null that is no mistake is UNKNOWN, which nothing else is."""
        column = quoted(name)
        if key in self._mapping.nullable:
            return f"CASE WHEN {column} IS NULL THEN {UNKNOWN_SQL} ELSE {integer_of(column, factor)} END"
        return column if factor == 1 else integer_of(column, factor)

    def how_to_erase(self, ranges: Ranges, *, rows: bool = False) -> str:
        """Whole rows are deleted: every column of theirs is covered, and may hold anything."""
        with self._connected() as connection:
            table = self._table(connection)
        sql = erasing(table.table, [], table.position, ranges)
        return f"PRAGMA secure_delete = ON;\n{sql}\nPRAGMA wal_checkpoint(TRUNCATE);"

    def _find(self, event_id: str, table: EventTable) -> tuple[str, tuple[Any, ...]] | None:
        try:
            event_id.encode()
        except UnicodeEncodeError:
            return None
        return f"{table.id} = ? COLLATE BINARY", (event_id,)


def _bytes(name: str | None, classes: dict[str, str]) -> str:
    return bytes_of(quoted(name), classes[name]) if name else "NULL"
