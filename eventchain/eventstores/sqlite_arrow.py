"""SQLite rows as Arrow batches of events, with no Python object for each row.

Three ways, each for what the one before leaves over, all with the same outcome:
1. SQLite's C functions fill Arrow's buffers (:mod:`.sqlite_rows`), where they can be reached.
2. One query packs some thousand rows into one: SQLite's ``group_concat`` joins each column, and numpy finds
   the rows again. It runs inside a single step of SQLite, outside Python's global lock; about four times
   slower than the first.
3. Value by value through Python, for rows out of the ordinary.

Why not a driver that brings its own copy of SQLite and fills Arrow directly: two copies in one process do
not see each other's file locks. When the last connection of one copy closes, it deletes the write-ahead log
under the other, whose open connection then never sees another commit. An edit would go unnoticed.

**Irregular rows.** SQLite stores values that a column's declaration does not allow: tables without strict
types, a schema edited under the table, text that is not UTF-8. Such a row must not read like any row that
could have been there before. So its id reads as U+FDD0 (a code point that no text may interchange), followed
by SHA-256 over all its values as they are stored, the columns in question, and the id (see
:func:`~eventchain.formats.event.irregular_id`); an id that itself begins with U+FDD0 counts as irregular.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.errors import StoreError
from eventchain.eventstores.sqlite_rows import RowReader
from eventchain.formats.event import EVENT_SCHEMA, IRREGULAR, UNKNOWN, empty_batch, irregular_id, joined

CHUNK = 4096
"""Rows a query: enough to hide its cost, few enough that a joined column stays in the cache."""
TEXTS = ("stream", "id", "type")
ALLOWED: dict[str, tuple[str, ...]] = {
    "stream": ("text",),
    "version": ("integer",),
    "id": ("text",),
    "type": ("text",),
    "time": ("integer",),
    "data": ("blob", "null"),
    "metadata": ("blob", "null"),
}
"""The storage classes that a regular row has."""
_SEPARATOR = b"\x1f"


@dataclass(frozen=True, slots=True)
class EventTable:
    """Where the columns of an event come from: SQL expressions over the rows of one table.

    ``position`` is the integer key; ``time`` and ``metadata`` may be constants.
    """

    table: str
    position: str
    stream: str
    version: str
    id: str
    type: str
    time: str
    data: str
    metadata: str

    def columns(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ALLOWED}


def read_events(
    connection: sqlite3.Connection,
    reader: RowReader | None,
    table: EventTable,
    after: int | None,
    limit: int,
    condition: str = "",
    parameters: tuple[Any, ...] = (),
) -> Any:
    """At most ``limit`` events above position ``after`` that meet the condition, ascending, as one record
    batch of EVENT_SCHEMA. ``reader`` is the connection's, if there is one.

    Raises sqlite3.Error, and StoreError when a row is larger than SQLite's limit (10⁹ bytes) or the batch
    larger than Arrow's (2³¹ bytes a column).
    """
    batches: list[Any] = []
    chunk, left = CHUNK, limit

    def where() -> str:
        conditions = [] if after is None else [f"{table.position} > {int(after)}"]
        return " AND ".join([*conditions, *([condition] if condition else [])]) or "1"

    while left > 0:
        if reader and not parameters:
            found, complete = _fetched(reader, table, where(), left)
            for batch in found:
                if batch.num_rows:
                    batches.append(batch)
                    left -= batch.num_rows
                    after = batch.column(0)[-1].as_py()
            if complete:
                break
        rows = min(chunk, left)
        try:
            batch = _packed(connection, table, where(), parameters, rows)
        except sqlite3.DataError as error:  # string or blob too big
            if rows == 1:
                raise StoreError(f"an event after position {after} is too large to read: {error}") from error
            chunk = rows // 2
            continue
        if batch.num_rows:
            batches.append(batch)
            after = batch.column(0)[-1].as_py()
        if batch.num_rows < rows:
            break
        left -= rows
    return joined(batches)


def _fetched(reader: RowReader, table: EventTable, where: str, limit: int) -> tuple[list[Any], bool]:
    """Batches up to the limit or to where they are out of the ordinary; whether it was the former."""
    columns = ", ".join(getattr(table, name) for name in EVENT_SCHEMA.names)
    batches, complete = reader.read(
        f"SELECT {columns} FROM {table.table} WHERE {where} ORDER BY {table.position} LIMIT {limit}", limit
    )
    for number, batch in enumerate(batches):
        if (regular := _first_reserved(batch.column("id"))) is not None:
            return [*batches[:number], batch.slice(0, regular)], False
    return batches, complete


def _packed(
    connection: sqlite3.Connection, table: EventTable, where: str, parameters: tuple[Any, ...], rows: int
) -> Any:
    """A chunk in columns; by rows when anything in it is out of the ordinary."""
    key = table.position
    # An aggregate over a range of the key, not over a subquery with a limit: that would copy every value.
    last = f"SELECT {key} AS key_ FROM {table.table} WHERE {where} ORDER BY {key} LIMIT {rows}"
    packed = ", ".join(
        [_joined(x, "','") for x in (key, table.version, table.time)]
        + [_joined(f"ifnull(length({x}), -1)", "','") for x in (table.data, table.metadata)]
        + [_joined(getattr(table, name), f"char({_SEPARATOR[0]})") for name in TEXTS]
        + [_joined(x, "''") for x in (table.data, table.metadata)]
    )
    count, regular, *found = connection.execute(
        f"SELECT count(*), ifnull(sum({_regular(table)}), 0), {packed} FROM {table.table} "
        f"WHERE {where} AND {key} <= (SELECT max(key_) FROM ({last}))",
        parameters * 2,
    ).fetchone()
    if not count:
        return empty_batch()
    if regular == count and not b"".join(found[:5]).translate(None, b"0123456789,-"):  # no reals
        position, version, time, data_length, metadata_length = (_numbers(text) for text in found[:5])
        texts = [_split(text, count) for text in found[5:8]]
        if all(text is not None for text in texts) and _first_reserved(texts[1]) is None:
            stream, id_, type_ = texts
            data, metadata = _binary(data_length, found[8]), _binary(metadata_length, found[9])
            columns = [position, stream, version, id_, type_, time, data, metadata]
            batch = pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=EVENT_SCHEMA)
            # The order in which an aggregate sees the rows is SQLite's own affair, but one for all columns.
            return batch if (position[1:] > position[:-1]).all() else batch.sort_by("position")
    return _by_rows(connection, table, where, parameters, rows)


def _joined(expression: str, separator: str) -> str:
    return f"CAST(group_concat({expression}, {separator}) AS BLOB)"


def _regular(table: EventTable) -> str:
    """Whether a row's values are of the classes allowed, as SQL: a number that is not an integer passes, and
    shows in its digits. Classes compare as null < number < text < blob, which costs less than typeof; the
    plus keeps SQLite from converting by the column's declaration first."""
    is_a = {
        "integer": "+{0} < ''",
        "text": "+{0} >= '' AND +{0} < x''",
        "blob": "(+{0} >= x'' OR {0} IS NULL)",
    }
    return " AND ".join(is_a[ALLOWED[name][0]].format(x) for name, x in table.columns().items())


def _numbers(text: bytes) -> NDArray[np.int64]:
    return np.fromstring(text, np.int64, sep=",")


def _split(joined: bytes, count: int) -> Any:
    """A string column from its values joined by the separator; None when a value holds the separator too,
    or is not UTF-8."""
    at = np.flatnonzero(np.frombuffer(joined, np.uint8) == _SEPARATOR[0])
    if len(at) != count - 1:
        return None
    offsets = np.zeros(count + 1, np.int32)
    offsets[1:-1] = at - np.arange(count - 1)
    values = joined.translate(None, _SEPARATOR)
    offsets[-1] = len(values)
    column = pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(values)])
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return None
    return column


def _first_reserved(ids: Any) -> int | None:
    """The row of the first id that could be taken for an irregular row's."""
    if not len(ids) or IRREGULAR.encode()[:1] not in ids.buffers()[2].to_pybytes():  # the fastest search
        return None
    from pyarrow import compute

    row = compute.index(compute.starts_with(ids, IRREGULAR), True).as_py()
    return None if row < 0 else int(row)


def _binary(lengths: NDArray[np.int64], joined: bytes | None) -> Any:
    """A binary column from its values joined and their lengths, −1 for null."""
    present = lengths >= 0
    if not present.any():
        return pa.nulls(len(lengths), pa.binary())
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(np.maximum(lengths, 0), out=offsets[1:])
    bits = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    buffers = [bits, pa.py_buffer(offsets), pa.py_buffer(joined or b"")]
    return pa.Array.from_buffers(pa.binary(), len(lengths), buffers)


# -- out of the ordinary ------------------------------------------------------------------------------


def _by_rows(
    connection: sqlite3.Connection, table: EventTable, where: str, parameters: tuple[Any, ...], rows: int
) -> Any:
    """The same chunk value by value: slower, and right for whatever SQLite can store."""
    values = ", ".join(
        f"typeof({x}), CASE typeof({x}) WHEN 'text' THEN CAST({x} AS BLOB) ELSE {x} END"
        for x in table.columns().values()
    )
    cursor = connection.execute(
        f"SELECT {table.position}, {values} FROM {table.table} "
        f"WHERE {where} ORDER BY {table.position} LIMIT {rows}",
        parameters,
    )
    return pa.RecordBatch.from_pylist(list(_events(cursor)), schema=EVENT_SCHEMA)


def _events(cursor: sqlite3.Cursor) -> Iterator[dict[str, Any]]:
    for position, *values in cursor:
        types = dict(zip(ALLOWED, values[::2], strict=True))
        stored = dict(zip(ALLOWED, values[1::2], strict=True))
        event, odd = {"position": position, **stored}, set()
        for name, allowed in ALLOWED.items():
            if types[name] not in allowed:
                event[name] = UNKNOWN if "integer" in allowed else _bytes(stored[name])
                odd.add(name)
        for name in TEXTS:
            try:
                event[name] = event[name].decode()
            except UnicodeDecodeError:
                event[name] = event[name].decode(errors="backslashreplace")
                odd.add(name)
        if event["id"].startswith(IRREGULAR):
            odd.add("id")
        if odd:
            digest = hashlib.sha256()
            for name, value in stored.items():
                digest.update(b"%s:%d:%s" % (types[name].encode(), len(_bytes(value)), _bytes(value)))
            columns = [name for name in ALLOWED if name in odd]
            event["id"] = irregular_id(digest.hexdigest(), columns, "" if "id" in odd else event["id"])
        yield event


def _bytes(value: Any) -> bytes:
    """A value of SQLite as bytes, one to one within its type."""
    if isinstance(value, float):
        return struct.pack(">d", value)
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()
