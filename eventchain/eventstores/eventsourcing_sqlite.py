"""The events of applications written with the Python library ``eventsourcing``, persisted in SQLite."""

from __future__ import annotations

import sqlite3
from typing import Any
from urllib.parse import quote

from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores.erasing import Ranges, erasing
from eventchain.eventstores.sqlite_arrow import EventTable
from eventchain.eventstores.sqlite_columns import UNKNOWN_SQL, json_of, quoted
from eventchain.eventstores.sqlite_file import SQLiteFile, columns

COLUMNS = ("originator_id", "originator_version", "topic", "state")


class EventsourcingSQLiteStore(SQLiteFile):
    """``eventsourcing+sqlite:///path?table=stored_events``, read only.

    Declaration 1: position = row id, which the library calls the notification id; stream =
    ``originator_id`` as stored (a UUID's 32 hex digits); version = ``originator_version``; id =
    ``<originator_id>/<originator_version>``; type = ``topic``; data = the bytes of ``state``; time unknown,
    since the library keeps it inside ``state``. Further columns, which applications may add, make
    ``metadata`` a JSON object, names in the order of their code points, each value a string
    ``<storage class>:<value>`` (integers in decimal, reals as SQL literals, text and blobs in hex); without
    any, metadata is null.

    Without ``table``, the one table or view with the library's columns that is not called ``…_snapshots``.
    Row ids are kept by VACUUM in all present versions of SQLite, though only promised for a declared key.
    """

    source = "eventsourcing-sqlite/1"

    def __init__(self, url: str) -> None:
        super().__init__(url, "table")

    def _table(self, connection: sqlite3.Connection) -> EventTable:
        table = self._options.get("table") or self._detect(connection)
        found = columns(connection, self._path, table)
        if missing := [name for name in COLUMNS if name not in found]:
            raise StoreError(
                f"the table {table} in {self._path} lacks {', '.join(missing)}",
                hint="is it the event table of an `eventsourcing` application?",
            )
        if any(name.lower() == "_rowid_" for name in found):
            raise StoreError(
                f"the table {table} in {self._path} has a column named _rowid_, which hides "
                "the order of its rows",
                hint="rename the column",
            )
        originator, version, topic, state = COLUMNS
        return EventTable(
            table=f"main.{quoted(table)}",
            position="_rowid_",
            stream=originator,
            version=version,
            id=f"({originator} || '/' || {version})",
            type=topic,
            time=UNKNOWN_SQL,
            data=state,
            metadata=json_of(sorted(set(found) - set(COLUMNS))),
        )

    @property
    def pinned_url(self) -> str:
        """The URL with the table in it that was found without being stated, for a configuration: a table
        that comes later then changes nothing."""
        if self._options.get("table"):
            return self._url
        with self._connected() as connection:
            table = self._detect(connection)
        return f"{self._url}{'' if '?' in self._url else '?'}table={quote(table, safe='')}"

    def how_to_erase(self, ranges: Ranges, *, rows: bool = False) -> str:
        """Where the application added columns, which may hold anything, whole rows are deleted."""
        with self._connected() as connection:
            table = self._table(connection)
        columns = [table.data] if table.metadata == "NULL" and not rows else []
        sql = erasing(table.table, columns, table.position, ranges)
        return f"PRAGMA secure_delete = ON;\n{sql}\nPRAGMA wal_checkpoint(TRUNCATE);"

    def _detect(self, connection: sqlite3.Connection) -> str:
        # Everything that the application could take for its events counts, though it cannot be read here: a
        # view, names in capitals, generated columns, no row ids. Else the table could be renamed and another
        # put in its place. Only the library's own snapshots are told apart by their name.
        names = connection.execute(
            "SELECT l.name FROM pragma_table_list AS l "
            "WHERE l.schema = 'main' AND NOT (l.wr AND l.name LIKE '%\\_snapshots' ESCAPE '\\') "
            "AND (SELECT count(*) FROM pragma_table_xinfo(l.name) AS c WHERE lower(c.name) IN "
            "('originator_id', 'originator_version', 'topic', 'state')) = 4 ORDER BY l.name"
        ).fetchall()
        if not names:
            raise StoreError(
                f"{self._path} has no event table of an `eventsourcing` application",
                hint="is this the file in SQLITE_DBNAME?",
            )
        if len(names) > 1:
            raise ConfigError(
                f"{self._path} has several event tables: {', '.join(n for (n,) in names)}",
                hint="state in the URL which one the application writes: "
                + ", ".join(f"?table={quote(name, safe='')}" for (name,) in names),
            )
        return str(names[0][0])

    def _find(self, event_id: str, table: EventTable) -> tuple[str, tuple[Any, ...]] | None:
        stream, _, version = event_id.rpartition("/")
        if not version.removeprefix("-").isdecimal() or not version.isascii() or abs(int(version)) >= 2**63:
            return None
        try:
            stream.encode()
        except UnicodeEncodeError:
            return None
        return "originator_id = ? AND originator_version = ?", (stream, int(version))
