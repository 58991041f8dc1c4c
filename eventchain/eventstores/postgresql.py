"""The project's own event store in a PostgreSQL database: many writers, no global lock."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import errors

from eventchain.contracts.event_store import NewEvent
from eventchain.errors import ConflictError, FormatError, StoreError
from eventchain.eventstores.postgresql_arrow import TEXTS, EventQuery, parts
from eventchain.eventstores.postgresql_table import PostgreSQLTable, TableInfo
from eventchain.formats.event import EVENT_SCHEMA, IRREGULAR, UNKNOWN
from eventchain.postgresql import fits, home_schema, quoted, rewrite, unsampled

CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- the global order; never given twice
    stream   text   COLLATE "C" NOT NULL,
    version  bigint NOT NULL,                                  -- position within the stream, from 0
    id       text   COLLATE "C" NOT NULL UNIQUE,
    type     text   NOT NULL,
    time     bigint NOT NULL,                                  -- microseconds since 1970 UTC; -2^63: unknown
    data     bytea,
    metadata bytea,
    UNIQUE (stream, version)
)
"""
TYPES = dict(
    zip(
        EVENT_SCHEMA.names,
        ("bigint", "text", "bigint", "text", "text", "bigint", "bytea", "bytea"),
        strict=True,
    )
)
COLUMNS = EVENT_SCHEMA.names[1:]
INSERT = f"""
INSERT INTO {{table}} ({", ".join(COLUMNS)})
SELECT {", ".join(f"e.{name}" for name in COLUMNS)}
FROM unnest({", ".join(f"%s::{TYPES[name]}[]" for name in COLUMNS)})
     WITH ORDINALITY AS e({", ".join(COLUMNS)}, number)
ORDER BY e.number RETURNING position
"""
# Durable on return also where the server or the role is set otherwise.
DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
CHANNEL = "eventchain_events"
# A transaction of its own that needs no fsync: of those that notify, one commits at a time.
NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, '')"
NOTIFY_SECONDS = 0.02
"""Between two notices, at least: who has just seen an event looks again by himself."""
PAYLOAD = ("data", "metadata")
ERASE = """
UPDATE {table} SET data = NULL, metadata = NULL
WHERE position = ANY(%s::int8[]) AND (data IS NOT NULL OR metadata IS NOT NULL)
"""
REMOVE = "DELETE FROM {table} WHERE position = ANY(%s::int8[])"
ATTEMPTS = 20
"""How often to append to "any" version while others append to the same stream."""


class PostgreSQLEventStore(PostgreSQLTable):
    """``postgresql://user@host/database``: an
    :class:`~eventchain.contracts.event_store.AppendableEventStore`, in the table ``events``.

    The columns of its one table are those of an event, and all are covered. Positions come from the table's
    identity, count from 1, and have gaps where an append was refused. Appends to different streams do not
    wait for each other; of two to one stream the second waits for the first to end. Text holds no NUL
    (PostgreSQL's text cannot), and ids and streams are at most 2,600 bytes (what a key of an index holds).
    """

    source = "eventchain-postgresql/1"
    creatable = True
    default_table = "events"
    default_channel = CHANNEL
    _notified = -math.inf  # when, by time.monotonic
    _made = ""  # the table, where this object made it

    def __init__(self, url: str, *, create: bool = False) -> None:
        super().__init__(url, create=create)

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        """Make the table where there is none, in the first schema of the role's path."""
        with suppress(errors.DuplicateTable, errors.UniqueViolation), connection.transaction():
            connection.execute("SET TRANSACTION READ WRITE")
            schema = self._server.options.get("schema") or home_schema(connection, self._server)
            name = f"{quoted(schema)}.{quoted(self._server.options.get('table', self.default_table))}"
            found = connection.execute("SELECT to_regclass(%s)", (name,)).fetchone()
            if found is not None and found[0] is None:
                self._made = name
                connection.execute(CREATE.format(table=name))
                connection.execute(unsampled(name, PAYLOAD))

    def discard(self) -> None:
        """Drop the table again if it was made by this object, and nothing is in it."""
        if not self._made:
            return
        with self._connected() as connection, connection.transaction():
            connection.execute("SET TRANSACTION READ WRITE")
            connection.execute(f"LOCK TABLE {self._made} IN ACCESS EXCLUSIVE MODE")
            if connection.execute(f"SELECT 1 FROM {self._made} LIMIT 1").fetchone() is None:
                connection.execute(f"DROP TABLE {self._made}")
        self.close()

    def _query(self, info: TableInfo) -> EventQuery:
        where = f"the table {info.table} in {self.url}"
        if missing := [name for name in TYPES if name not in info.types]:
            raise StoreError(
                f"{where} lacks {', '.join(missing)}",
                hint="this is not an event store of EventChain, or its schema was changed",
            )
        if more := [name for name in info.types if name not in TYPES]:
            raise StoreError(
                f"{where} has columns that no chain covers: {', '.join(more)}",
                hint="keep them in a table of their own",
            )
        if other := [f"{name} ({info.types[name]})" for name in TYPES if info.types[name] != TYPES[name]]:
            raise StoreError(f"{where} has other types: {', '.join(other)}", hint="the schema was changed")
        if "position" not in info.required & info.unique:
            raise StoreError(f"position is not the key of {where[4:]}", hint="the schema was changed")
        return EventQuery(info.name, *EVENT_SCHEMA.names)

    def _find(self, event_id: str, info: TableInfo) -> tuple[str, tuple[Any, ...]] | None:
        return ("id = %s", (event_id,)) if fits(event_id) else None

    # -- appending

    def append(self, stream: str, expected_version: int | None, events: Sequence[NewEvent]) -> list[int]:
        for text in (stream, *(e.id for e in events), *(e.type for e in events)):
            if not fits(text):
                raise FormatError(
                    f"{text!r} has a NUL or lone surrogates", hint="text is kept as UTF-8 without NUL"
                )
        for event in events:
            if event.id.startswith(IRREGULAR):
                raise FormatError(f"the id {event.id!r} begins with U+FDD0", hint="ids must not")
        for _ in range(ATTEMPTS):
            try:
                return self._append(stream, expected_version, events)
            except (errors.UniqueViolation, errors.DeadlockDetected) as error:
                with self._described() as (connection, info, _query):
                    latest = self._version(connection, info, stream)
                    rows = [(stream, number, e.id) for number, e in enumerate(events, latest + 1)]
                    conflict = _taken(connection, info, rows)
                if not conflict and expected_version is not None:  # others were faster
                    conflict = f"stream {stream!r} already has an event at version {expected_version + 1}"
                if conflict:
                    raise ConflictError(f"{conflict}; {stream!r} is at version {latest}") from error
        raise ConflictError(f"stream {stream!r} is being appended to by others all the time")

    def _append(self, stream: str, expected: int | None, events: Sequence[NewEvent]) -> list[int]:
        with self._transaction() as (connection, info):
            version = self._version(connection, info, stream)
            if expected is not None and version != expected:
                raise ConflictError(
                    f"stream {stream!r} is at version {version}, not {expected}",
                    hint="read what was appended meanwhile and decide again",
                )
            rows = [
                (stream, number, e.id, e.type, UNKNOWN if e.time is None else e.time, e.data, e.metadata)
                for number, e in enumerate(events, version + 1)
            ]
            return self._insert(connection, info, rows)

    def append_batches(self, batches: Iterable[Any]) -> int:
        count = 0
        with self._transaction() as (connection, info):
            for batch in batches:
                for part in parts(batch):
                    rows = _rows(part)
                    try:
                        with connection.transaction():  # a savepoint: what is refused can be looked for
                            self._insert(connection, info, rows)
                    except errors.UniqueViolation as error:
                        why = _taken(connection, info, rows) or "an id or a version was taken meanwhile"
                        raise ConflictError(why) from error
                    count += len(rows)
        return count

    @staticmethod
    def _insert(
        connection: psycopg.Connection[Any], info: TableInfo, rows: list[tuple[Any, ...]]
    ) -> list[int]:
        if not rows:
            return []
        columns = [list(column) for column in zip(*rows, strict=True)]
        try:
            found = connection.execute(INSERT.format(table=info.name), columns).fetchall()
        except errors.NumericValueOutOfRange as error:
            raise FormatError("the time of an event is outside 64 bits") from error
        except errors.ProgramLimitExceeded as error:
            raise FormatError(f"an event is too large: {error.diag.message_primary}") from error
        return sorted(position for (position,) in found)

    @staticmethod
    def _version(connection: psycopg.Connection[Any], info: TableInfo, stream: str) -> int:
        found = connection.execute(
            f"SELECT max(version) FROM {info.name} WHERE stream = %s", (stream,)
        ).fetchone()
        return -1 if found is None or found[0] is None else max(int(found[0]), -1)

    # -- erasing

    def erase(self, positions: NDArray[np.int64]) -> None:
        self._destroy(ERASE, positions)

    def remove(self, positions: NDArray[np.int64]) -> None:
        self._destroy(REMOVE, positions)

    def _destroy(self, statement: str, positions: NDArray[np.int64]) -> None:
        with self._transaction() as (connection, info):
            connection.execute(statement.format(table=info.name), (positions.tolist(),))
        with self._connected() as connection:
            connection.execute("SET default_transaction_read_only = off")
            try:
                rewrite(connection, self._server, info.name, PAYLOAD)
            finally:
                self.close()  # the next connection only reads again

    @contextmanager
    def _transaction(self) -> Iterator[tuple[psycopg.Connection[Any], TableInfo]]:
        """A write transaction: committed and durable on leaving, rolled back on an exception. Conflicts leave
        it as the driver's UniqueViolation."""
        refused: psycopg.Error | None = None
        with self._connected() as connection:
            try:
                with connection.transaction():
                    connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE")
                    connection.execute(DURABLE)
                    yield connection, self._look_up(connection)[0]
            except (errors.UniqueViolation, errors.DeadlockDetected) as error:
                refused = error
            else:
                self._notify(connection)
        if refused is not None:
            raise refused

    def _notify(self, connection: psycopg.Connection[Any]) -> None:
        """Wake who waits. A notice that is lost costs him a moment; the events are committed."""
        if self._channel and time.monotonic() >= self._notified + NOTIFY_SECONDS:
            self._notified = time.monotonic()
            with suppress(psycopg.Error):
                connection.execute(NOTIFY, (self._channel,))


def _taken(connection: psycopg.Connection[Any], info: TableInfo, rows: Sequence[tuple[Any, ...]]) -> str:
    """Which of the rows to insert, as (stream, version, id, …), cannot be, and what has its place, in words;
    empty where all of them can."""
    streams, versions, ids = ([row[n] for row in rows] for n in range(3))
    found = f"SELECT e.stream, e.version, e.id FROM {info.name} AS e"
    places = "JOIN unnest(%s::text[], %s::int8[]) AS r(s, v) ON e.stream = r.s AND e.version = r.v"
    taken = {
        name: (stream, version)
        for stream, version, event_id in connection.execute(
            f"{found} WHERE e.id = ANY(%s) UNION {found} {places}", (ids, streams, versions)
        )
        for name in (event_id, (stream, version))
    }
    for stream, version, event_id, *_ in rows:
        if event_id in taken:
            at, number = taken[event_id]
            return f"event id {event_id!r} exists already, in stream {at!r} at version {number}"
        if (stream, version) in taken:
            return f"stream {stream!r} already has an event at version {version}"
        taken[event_id] = taken[stream, version] = (stream, version)
    return ""


def _rows(batch: Any) -> list[tuple[Any, ...]]:
    """The values to insert, one tuple an event. Raises FormatError for what the schema does not allow."""
    for field in EVENT_SCHEMA:
        if field.name != "position":
            column = batch.column(field.name) if field.name in batch.schema.names else None
            if column is None or column.type != field.type or (column.null_count and not field.nullable):
                raise FormatError(
                    f"a batch to append must have a column {field.name} of {field.type}"
                    + ("" if field.nullable else ", without nulls")
                )
    try:
        for name in TEXTS:
            batch.column(name).validate(full=True)
    except pa.ArrowInvalid as error:
        raise FormatError(f"a batch to append holds text that is not UTF-8: {error}") from error
    lists = {name: batch.column(name).to_pylist() for name in COLUMNS}
    if reserved := next((i for i in lists["id"] if i.startswith(IRREGULAR)), None):
        raise FormatError(f"the id {reserved!r} begins with U+FDD0", hint="ids must not")
    if unfit := next((text for name in TEXTS for text in lists[name] if "\0" in text), None):
        raise FormatError(f"{unfit!r} holds a NUL", hint="PostgreSQL's text cannot")
    return list(zip(*lists.values(), strict=True))
