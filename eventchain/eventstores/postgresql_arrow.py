"""PostgreSQL rows as Arrow batches of events, with no Python object for each row.

One query packs some thousand rows into one: ``string_agg`` joins each column's bytes on the server, and
numpy finds the values again by their lengths. Rows with values that an event does not allow go value by
value: a null where there must be none, text that is not UTF-8 (which only an edit of the catalogs can put
there). Their ids are :func:`~eventchain.formats.event.irregular_id`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eventchain.errors import StoreError
from eventchain.formats.event import EVENT_SCHEMA, IRREGULAR, UNKNOWN, empty_batch, irregular_id, joined

ROWS = 4096
"""Rows a query, at most: enough to hide its cost."""
FIRST_ROWS = 256
BYTES = 16 * 2**20
"""What a query brings is kept near this, whatever the size of the events."""
TOO_LARGE = ("54000", "53200")  # program limit exceeded, out of memory
NUMBERS, TEXTS, BINARIES = ("position", "version", "time"), ("stream", "id", "type"), ("data", "metadata")


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Where the columns of an event come from: SQL expressions over the rows of one table. ``position`` is
    never null; constants may stand for ``version``, ``time`` and ``metadata``."""

    table: str
    position: str
    stream: str
    version: str
    id: str
    type: str
    time: str
    data: str
    metadata: str

    def rows(self, where: str, limit: int) -> str:
        """The rows in order: numbers as bigint, everything else as bytea."""
        numbers = (f"({getattr(self, name)})::int8 AS {name}" for name in NUMBERS)
        texts = (f"textsend(({getattr(self, name)})::text) AS {name}" for name in TEXTS)
        binaries = (f"({getattr(self, name)})::bytea AS {name}" for name in BINARIES)
        columns = ", ".join([*numbers, *texts, *binaries])
        return f"SELECT {columns} FROM {self.table} AS t WHERE {where} ORDER BY {self.position} LIMIT {limit}"


def read_events(
    connection: psycopg.Connection[Any],
    query: EventQuery,
    after: int | None,
    limit: int,
    condition: str = "",
    parameters: tuple[Any, ...] = (),
) -> Any:
    """At most ``limit`` events above position ``after`` that meet the condition, ascending, as one record
    batch of EVENT_SCHEMA. With parameters, ``%`` is doubled in all SQL but the condition.

    Raises psycopg.Error, and StoreError when a row is larger than PostgreSQL can pack (1 GiB) or the batch
    larger than Arrow's (2 GiB a column).
    """
    if parameters:
        names = EVENT_SCHEMA.names
        query = EventQuery(*(getattr(query, name).replace("%", "%%") for name in ("table", *names)))
    batches: list[Any] = []
    rows, left = FIRST_ROWS, limit
    while left > 0:
        rows = min(rows, left)
        conditions = [] if after is None else [f"{query.position} > {int(after)}"]
        where = " AND ".join([*conditions, *([condition] if condition else [])]) or "true"
        try:
            batch = _packed(connection, query.rows(where, rows), parameters)
        except psycopg.Error as error:
            if error.sqlstate not in TOO_LARGE:
                raise
            connection.execute(f"ROLLBACK TO SAVEPOINT {SAVEPOINT}")
            if rows == 1:
                raise StoreError(f"an event after position {after} is too large to read: {error}") from error
            rows = rows // 2
            continue
        if batch.num_rows:
            batches.append(batch)
            after = batch.column(0)[-1].as_py()
        if batch.num_rows < rows:
            break
        left -= rows
        rows = max(1, min(ROWS, BYTES * rows // max(1, batch.nbytes)))
    return joined(batches)


SAVEPOINT = "eventchain_reading"
_LENGTHS = [f"string_agg(int4send(coalesce(octet_length({x}), -1)), '')" for x in (*TEXTS, *BINARIES)]
_PACKED = ", ".join(
    ["count(*)", "count(version)", "count(time)"]
    + [f"string_agg(int8send({x}), '')" for x in NUMBERS]
    + _LENGTHS
    + [f"string_agg({x}, '')" for x in (*TEXTS, *BINARIES)]
)


def _packed(connection: psycopg.Connection[Any], rows: str, parameters: tuple[Any, ...]) -> Any:
    """A chunk in columns; by rows when anything in it is out of the ordinary."""
    cursor = connection.cursor(binary=True)
    ((count, versions, times, *found),) = cursor.execute(
        f"SELECT {_PACKED} FROM ({rows}) AS e", parameters or None
    )
    if not count:
        return empty_batch()
    lengths = [np.frombuffer(raw, ">i4").astype(np.int64) for raw in found[3:8]]
    if count == versions == times and all((one >= 0).all() for one in lengths[:3]):
        position, version, time = (np.frombuffer(raw, ">i8").astype(np.int64) for raw in found[:3])
        stream, id_, type_ = (
            _column(pa.string(), *pair) for pair in zip(lengths[:3], found[8:11], strict=True)
        )
        data, metadata = (_column(pa.binary(), *pair) for pair in zip(lengths[3:], found[11:], strict=True))
        columns = [pa.array(position), stream, pa.array(version), id_, type_, pa.array(time), data, metadata]
        batch = pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)
        if _is_regular(batch):
            # In which order aggregates see the rows is PostgreSQL's own affair, but one for all columns.
            return batch if (position[1:] >= position[:-1]).all() else batch.sort_by("position")
    cursor.execute(rows, parameters or None)
    return pa.RecordBatch.from_pylist([_event(row) for row in cursor], schema=EVENT_SCHEMA)


def _column(kind: Any, lengths: NDArray[np.int64], joined: bytes | None) -> Any:
    """A column from its values joined and their lengths, −1 for null."""
    offsets = np.zeros(len(lengths) + 1, np.int32)  # a value of PostgreSQL has less than 1 GiB
    np.cumsum(np.maximum(lengths, 0), out=offsets[1:])
    present = lengths >= 0
    bits = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(
        kind, len(lengths), [bits, pa.py_buffer(offsets), pa.py_buffer(joined or b"")]
    )


def _is_regular(batch: Any) -> bool:
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:  # text that is not UTF-8
        return False
    return not pc.any(pc.starts_with(batch["id"], IRREGULAR)).as_py()


def _event(row: tuple[Any, ...]) -> dict[str, Any]:
    """One row, whatever is in it."""
    stored = dict(zip((*NUMBERS, *TEXTS, *BINARIES), row, strict=True))
    event, odd = dict(stored), set()
    for name in ("version", "time"):
        if stored[name] is None:
            event[name] = UNKNOWN
            odd.add(name)
    for name in TEXTS:
        raw = stored[name] or b""
        event[name] = raw.decode(errors="backslashreplace")
        if stored[name] is None or event[name].encode(errors="replace") != raw:
            odd.add(name)
    if event["id"].startswith(IRREGULAR):
        odd.add("id")
    if odd:
        digest = hashlib.sha256(b"".join(_tagged(name, value) for name, value in stored.items()))
        columns = [name for name in EVENT_SCHEMA.names if name in odd]
        event["id"] = irregular_id(digest.hexdigest(), columns, "" if "id" in odd else event["id"])
    return event


def _tagged(name: str, value: Any) -> bytes:
    raw = b"" if value is None else value if isinstance(value, bytes) else str(value).encode()
    return b"%s:%d:%s" % (name.encode(), -1 if value is None else len(raw), raw)


def parts(batch: Any) -> Iterator[Any]:
    """A batch in slices that are inserted with one statement each."""
    for start in range(0, batch.num_rows, ROWS):
        yield batch.slice(start, ROWS)
