"""The embedded event store: one SQLite file, ours to write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.contracts.event_store import NewEvent
from eventchain.errors import ConflictError, FormatError, StoreError
from eventchain.eventstores.sqlite_arrow import TEXTS, EventTable
from eventchain.eventstores.sqlite_file import SQLiteFile, columns
from eventchain.formats.event import EVENT_SCHEMA, IRREGULAR, UNKNOWN

CREATE = """
CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,  -- the global order; never given twice
    stream   TEXT    NOT NULL,
    version  INTEGER NOT NULL,                   -- position within the stream, from 0
    id       TEXT    NOT NULL UNIQUE,
    type     TEXT    NOT NULL,
    time     INTEGER NOT NULL,                   -- microseconds since 1970 UTC; -2^63: unknown
    data     BLOB,
    metadata BLOB,
    UNIQUE (stream, version)
) STRICT
"""
INSERT = "INSERT INTO events (stream, version, id, type, time, data, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)"
ERASE = """
UPDATE events SET data = NULL, metadata = NULL
WHERE position = ? AND (data IS NOT NULL OR metadata IS NOT NULL)
"""
REMOVE = "DELETE FROM events WHERE position = ?"
COLUMNS = EVENT_SCHEMA.names
IMPORT_CACHE_KIB = 256 * 1024
"""Page cache while importing, so that the two indexes are not read back from disk for every row."""


class SQLiteEventStore(SQLiteFile):
    """``sqlite:///path``: an :class:`~eventchain.contracts.event_store.AppendableEventStore`.

    The columns of its one table are those of an event, and all are covered. Positions count from 1. Any
    number of processes may read and append at once.
    """

    source = "eventchain-sqlite/1"
    creatable = True

    def __init__(self, url: str, *, create: bool = False) -> None:
        super().__init__(url, create=create)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
        connection.execute(CREATE)

    def _table(self, connection: sqlite3.Connection) -> EventTable:
        found = columns(connection, self._path, "events")
        if missing := [name for name in COLUMNS if name not in found]:
            raise StoreError(
                f"the table events in {self._path} lacks {', '.join(missing)}",
                hint="this is not an event store of EventChain, or its schema was changed",
            )
        if more := [name for name in found if name not in COLUMNS]:
            raise StoreError(
                f"the table events in {self._path} has columns that no chain covers: {', '.join(more)}",
                hint="keep them in a table of their own",
            )
        key = connection.execute("SELECT name FROM pragma_table_info('events') WHERE pk").fetchall()
        index = connection.execute("SELECT 1 FROM pragma_index_list('events') WHERE origin = 'pk'").fetchone()
        if key != [("position",)] or index:  # with an index of its own the key is not the row's number
            raise StoreError(
                f"position is not the INTEGER PRIMARY KEY of events in {self._path}",
                hint="the schema was changed",
            )
        return EventTable("main.events", *COLUMNS)

    def _find(self, event_id: str, table: EventTable) -> tuple[str, tuple[Any, ...]] | None:
        return ("id = ?", (event_id,)) if _encodable(event_id) else None

    # -- appending

    def append(self, stream: str, expected_version: int | None, events: Sequence[NewEvent]) -> list[int]:
        for text in (stream, *(e.id for e in events), *(e.type for e in events)):
            if not _encodable(text):
                raise FormatError(f"{text!r} has lone surrogates", hint="text is kept as UTF-8")
        for event in events:
            if event.id.startswith(IRREGULAR):
                raise FormatError(f"the id {event.id!r} begins with U+FDD0", hint="ids must not")
        with self._transaction() as connection:
            version = self._version(connection, stream)
            if expected_version is not None and version != expected_version:
                raise ConflictError(
                    f"stream {stream!r} is at version {version}, not {expected_version}",
                    hint="read what was appended meanwhile and decide again",
                )
            positions = []
            for number, event in enumerate(events, version + 1):
                time = UNKNOWN if event.time is None else event.time
                try:
                    cursor = connection.execute(
                        INSERT, (stream, number, event.id, event.type, time, event.data, event.metadata)
                    )
                except sqlite3.IntegrityError as error:
                    raise self._conflict(connection, stream, number, event.id, version) from error
                except OverflowError as error:
                    raise FormatError(f"the time of event {event.id!r} is outside 64 bits") from error
                positions.append(int(cursor.lastrowid or 0))
            return positions

    def append_batches(self, batches: Iterable[Any]) -> int:
        count = 0
        with self._transaction() as connection:
            connection.execute(f"PRAGMA cache_size = -{IMPORT_CACHE_KIB}")
            for batch in batches:
                for start in range(0, batch.num_rows, 8192):
                    count += self._append_rows(connection, _rows(batch.slice(start, 8192)))
        return count

    def _append_rows(self, connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> int:
        before = connection.total_changes
        try:
            connection.executemany(INSERT, rows)
        except sqlite3.IntegrityError as error:
            stream, version, event_id, *_ = rows[connection.total_changes - before]
            raise self._conflict(connection, stream, version, event_id) from error
        return len(rows)

    @staticmethod
    def _conflict(
        connection: sqlite3.Connection, stream: str, version: int, event_id: str, latest: int | None = None
    ) -> ConflictError:
        taken = connection.execute("SELECT stream, version FROM events WHERE id = ?", (event_id,)).fetchone()
        if taken:
            message = f"event id {event_id!r} exists already, in stream {taken[0]!r} at version {taken[1]}"
        else:
            message = f"stream {stream!r} already has an event at version {version}"
        return ConflictError(message if latest is None else f"{message}; {stream!r} is at version {latest}")

    @staticmethod
    def _version(connection: sqlite3.Connection, stream: str) -> int:
        found = connection.execute("SELECT max(version) FROM events WHERE stream = ?", (stream,)).fetchone()
        return -1 if found[0] is None else max(int(found[0]), -1)

    # -- erasing

    def erase(self, positions: NDArray[np.int64]) -> None:
        self._destroy(ERASE, positions)

    def remove(self, positions: NDArray[np.int64]) -> None:
        self._destroy(REMOVE, positions)

    def _destroy(self, statement: str, positions: NDArray[np.int64]) -> None:
        with self._transaction() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            connection.executemany(statement, [(position,) for position in positions.tolist()])
        with self._connected() as connection:  # free space of pages, and the log, may still hold the values
            connection.execute("VACUUM")
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                f"{self._path}: a reader of an old state keeps what was erased in the write-ahead log",
                hint="close it, then run `eventchain erase --resume`",
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed and durable on leaving, rolled back on an exception."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._table(connection)
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.rollback()


def _rows(batch: Any) -> list[tuple[Any, ...]]:
    """The values to insert, one tuple an event. Raises FormatError for what the schema does not allow."""
    named = {name: batch.column(name) for name in COLUMNS[1:] if name in batch.schema.names}
    for field in EVENT_SCHEMA:
        if field.name != "position":
            column = named.get(field.name)
            if column is None or column.type != field.type or (column.null_count and not field.nullable):
                raise FormatError(
                    f"a batch to append must have a column {field.name} of {field.type}"
                    + ("" if field.nullable else ", without nulls")
                )
    try:
        for name in TEXTS:
            named[name].validate(full=True)
    except pa.ArrowInvalid as error:
        raise FormatError(f"a batch to append holds text that is not UTF-8: {error}") from error
    ids = named["id"].to_pylist()
    if reserved := next((i for i in ids if i.startswith(IRREGULAR)), None):
        raise FormatError(f"the id {reserved!r} begins with U+FDD0", hint="ids must not")
    lists = [ids if name == "id" else named[name].to_pylist() for name in COLUMNS[1:]]
    return list(zip(*lists, strict=True))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
