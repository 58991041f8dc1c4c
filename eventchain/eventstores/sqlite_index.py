"""Whether the indexes of a table hold what its rows say: an application that looks for a stream reads an
index, and where that covers the query it reads nothing else.

``PRAGMA integrity_check`` says it, by looking every row up in every index. That would be most of the work of
a whole verification; so each index is read once instead, from end to end and in a thread of its own:

- SQLite's ``quick_check`` shows that table and indexes are sound as trees of pages, with the rows in order.
- An index whose entries rise from first to last finds whatever it holds.
- It holds what the rows say when both give one fingerprint: the sum of SHA-256 over each entry's row number
  and values, after a secret key. The key is drawn for each check, so nobody can make up entries that add up
  to the sum; and a sum needs no order, so nothing is kept of the rows, which are read anyway.

Whatever is out of the ordinary (an index over an expression, part of the table or in another order; a value
of another class; anything that does not fit) is left to ``integrity_check``, whose words are reported.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.eventstores.sqlite_arrow import EventTable
from eventchain.eventstores.sqlite_columns import quoted
from eventchain.eventstores.sqlite_rows import RowReader
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.formats.hashing import integers, sha256_joined, values

KEYS = ("stream", "version", "id", "type", "time")
"""Columns of an event that an index may be over."""


@dataclass
class _Index:
    """``columns``: of its key, as SQL and as a field of the event."""

    name: str
    unique: bool
    columns: dict[str, str]
    held: _Fingerprint = field(default_factory=lambda: _Fingerprint())
    shown: _Fingerprint = field(default_factory=lambda: _Fingerprint())


class IndexCheck:
    """The contract is :class:`eventchain.contracts.event_store.IndexCheck`.

    connection: its own, closed at the end; thorough: ``integrity_check``, on another one; unchanged: raises
    StoreError where what was read means nothing
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        rows: RowReader | None,
        table: EventTable,
        thorough: Callable[[], list[str]],
        unchanged: Callable[[], None],
    ) -> None:
        self._connection, self._rows, self._table = connection, rows, table
        self._thorough, self._unchanged = thorough, unchanged
        self._key = os.urandom(16)
        self._right = False  # what can be said without the rows
        connection.execute("BEGIN")  # one state of the table for all that follows
        query = f"SELECT ifnull(max({table.position}), -1) FROM {table.table} NOT INDEXED"
        self._head = int(connection.execute(query).fetchone()[0])
        self._indexes = _indexes(connection, table) if rows else None

    def work(self) -> None:
        try:
            if self._indexes is not None and self._sound():
                self._right = all(map(self._rises, self._indexes))
        except sqlite3.Error:
            self._right = False  # the thorough check says why
        finally:
            self._connection.close()

    def show(self, batch: Any) -> None:
        """The rows that were there when the check began; later ones have higher positions."""
        batch = batch.slice(0, int(np.searchsorted(batch["position"].to_numpy(), self._head, side="right")))
        for index in self._indexes or ():
            index.shown.add(self._key, [batch["position"], *map(batch.column, index.columns.values())])

    def faults(self) -> list[str]:
        self._unchanged()
        if self._right and all(index.held == index.shown for index in self._indexes or ()):
            return []
        return self._thorough()

    def _sound(self) -> bool:
        name = self._table.table.removeprefix("main.")
        return self._connection.execute(f"PRAGMA main.quick_check({name})").fetchall() == [("ok",)]

    def _rises(self, index: _Index) -> bool:
        """Whether the entries rise; takes the index' fingerprint on the way."""
        assert self._rows is not None
        table, position, keys = self._table.table, self._table.position, ", ".join(index.columns)
        query = f"SELECT {position}, {keys} FROM {table} INDEXED BY {quoted(index.name)}"
        query += f" ORDER BY {keys}, {position}"
        plan = self._connection.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
        if len(plan) != 1 or not plan[0][-1].endswith(f" USING COVERING INDEX {index.name}"):
            return False  # sorted, or with a look at the rows
        names = ["position", *index.columns.values()]
        schema = pa.schema([EVENT_SCHEMA.field(name) for name in names])
        last: list[Any] | None = None
        for batch in self._rows.scan(query, schema):
            if batch is None:
                return False
            columns = batch.columns
            order = columns[1:] if index.unique else [*columns[1:], columns[0]]
            first = [_value(column, 0) for column in order]
            if (last is not None and first <= last) or not _rise(order):
                return False
            last = [_value(column, -1) for column in order]
            index.held.add(self._key, columns)
        return True


class _Fingerprint:
    """Of a set of rows or entries: how many, and the sum of their keyed digests."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = np.zeros(4, np.uint64)

    def add(self, key: bytes, columns: list[Any]) -> None:
        """The rows of these columns, int64 or text without nulls."""
        parts = [integers(c) if c.type == pa.int64() else values(c, 8) for c in columns]
        words = sha256_joined(len(columns[0]), key, *parts).view(np.uint64)
        self._count += len(words)
        self._sum += np.array([words[:, word].sum() for word in range(4)], np.uint64)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, _Fingerprint)
        return self._count == other._count and bool((self._sum == other._sum).all())

    __hash__ = None  # type: ignore[assignment]  # it grows


def _indexes(connection: sqlite3.Connection, table: EventTable) -> list[_Index] | None:
    """The table's indexes; None when one of them is out of the ordinary."""
    sources = {name: getattr(table, name) for name in KEYS}
    fields = {quoted(sql) if sql.isidentifier() else sql: name for name, sql in sources.items()}
    found = []
    name = table.table.removeprefix("main.")
    for _, index, unique, _, partial in connection.execute(f"PRAGMA main.index_list({name})").fetchall():
        info = connection.execute(f"PRAGMA main.index_xinfo({quoted(index)})").fetchall()
        *keys, (_, number, *_) = info
        names = [quoted(column or "") for _, _, column, *_ in keys]
        plain = all((down, order) == (0, "BINARY") for *_, down, order, _ in keys) and fields.keys() >= {
            *names
        }
        if partial or not plain or number != -1 or not keys:
            return None
        found.append(_Index(index, bool(unique), {name: fields[name] for name in names}))
    return found


def _rise(columns: list[Any]) -> bool:
    """Whether each row is above the one before, by the first column, where that agrees by the next."""
    from pyarrow import compute  # takes a while to load

    level: NDArray[np.bool_] = np.ones(len(columns[0]) - 1, np.bool_)
    for column in columns:
        before, after = column[:-1], column[1:]
        above, same = (
            compare(after, before).to_numpy(zero_copy_only=False)
            for compare in (compute.greater, compute.equal)
        )
        if not (above | same)[level].all():
            return False
        level = level & same
    return not level.any()


def _value(column: Any, row: int) -> Any:
    one = column[row if row >= 0 else len(column) + row]
    return one.as_py() if column.type == pa.int64() else one.as_buffer().to_pybytes()
