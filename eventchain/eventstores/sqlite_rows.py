"""Rows from SQLite straight into Arrow's buffers, by its C functions.

They are called on the very connection that Python's ``sqlite3`` opened, in the very library that it uses:
see :mod:`.sqlite_arrow` for why there must be no second one. The machine code that takes the rows (see
:mod:`eventchain_kernels.native.fetch_rows`) runs outside Python's global lock.

Some builds of Python hide SQLite's functions, and there is nothing here for them: :func:`connect` then gives
no reader.
"""

from __future__ import annotations

import ctypes
import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eventchain.formats.event import EVENT_SCHEMA

ROWS = 32_768
"""Rows that one batch holds at most."""
MIN_BYTES, MAX_BYTES = 4096, 2**31 - 1
"""Room for one column's bytes in a batch: Arrow counts them in 31 bits."""
FIRST_WIDTH, MAX_WIDTH = 64, 2048
"""Bytes to set aside for a value at first, and at most; what does not fit begins a batch with more room."""
LEARN = 1024
"""Rows in a batch that say what to set aside next time."""
_CLASSES = {pa.int64(): 1, pa.string(): 3, pa.binary(): 4}  # SQLite's storage classes
_NEEDED = (
    "sqlite3_auto_extension", "sqlite3_cancel_auto_extension", "sqlite3_db_mutex", "sqlite3_prepare_v2",
    "sqlite3_finalize", "sqlite3_mutex_enter", "sqlite3_mutex_leave", "sqlite3_step", "sqlite3_column_value",
    "sqlite3_value_type", "sqlite3_value_int64", "sqlite3_value_blob", "sqlite3_value_bytes",
)  # fmt: skip

_connecting = threading.Lock()
_here = threading.local()


def connect(uri: str, **options: Any) -> tuple[sqlite3.Connection, RowReader | None]:
    """A connection of Python's (with the options of ``sqlite3.connect``), and what reads its rows, if there
    can be.

    SQLite calls an *automatic extension* with each connection as it is made. That is how the connection's
    address becomes known; and when the functions found were those of another copy of SQLite, no call comes.
    """
    library = _library()
    if library is None:
        return sqlite3.connect(uri, uri=True, **options), None
    _here.address = None
    with _connecting:
        library.sqlite3_auto_extension(_NOTE)
        try:
            connection = sqlite3.connect(uri, uri=True, **options)
        finally:
            library.sqlite3_cancel_auto_extension(_NOTE)
    return connection, RowReader(library, _here.address) if _here.address else None


def _note(address: int, message: int, functions: int) -> int:
    _here.address = address
    return 0


_NOTE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(_note)


@cache
def _library() -> Any:
    """The SQLite behind Python's module; None when its functions are not to be found."""
    try:
        # A symbol is looked up in the module and the libraries it needs, or in Python where it is built in.
        return _load(getattr(import_module("_sqlite3"), "__file__", None))
    except (ImportError, OSError, AttributeError, TypeError):
        return None


def _load(path: str | None) -> Any:
    library = ctypes.CDLL(path)
    for name in _NEEDED:
        getattr(library, name).restype = ctypes.c_int
    pointer = ctypes.c_void_p
    library.sqlite3_db_mutex.argtypes, library.sqlite3_db_mutex.restype = (pointer,), pointer
    library.sqlite3_prepare_v2.argtypes = (pointer, ctypes.c_char_p, ctypes.c_int, pointer, pointer)
    library.sqlite3_finalize.argtypes = (pointer,)
    return library


class RowReader:
    """Reads rows of events on one connection, which must stay open and be used by one thread at a time."""

    def __init__(self, library: Any, connection: int) -> None:
        self._library, self._connection = library, connection
        self._widths = [FIRST_WIDTH] * len(EVENT_SCHEMA)

    def read(self, query: str, limit: int) -> tuple[list[Any], bool]:
        """Up to ``limit`` rows of the query, whose columns are those of EVENT_SCHEMA, as record batches.

        False when it stopped before a row that is out of the ordinary: a value of another storage class,
        text that is not UTF-8, or an error, which will come again when the row is asked for in another way.
        """
        batches: list[Any] = []
        for columns, count, complete in self._fetched(query, EVENT_SCHEMA, self._widths, limit):
            if count:
                batch = _batch(columns, count, EVENT_SCHEMA)
                if (valid := _valid_rows(batch)) < count:
                    return [*batches, batch.slice(0, valid)], False
                batches.append(batch)
            if count >= LEARN:
                self._widths = [column.width(count) for column in columns]
            if not complete:
                return batches, False
        return batches, True

    def scan(self, query: str, schema: Any) -> Iterator[Any]:
        """All rows of the query as record batches of the schema, whose text may be no UTF-8; None at last,
        where it stopped before a row that is out of the ordinary."""
        for columns, count, complete in self._fetched(query, schema, [FIRST_WIDTH] * len(schema), None):
            if count:
                yield _batch(columns, count, schema)
            if not complete:
                yield None

    def _fetched(
        self, query: str, schema: Any, widths: list[int], limit: int | None
    ) -> Iterator[tuple[list[_Column], int, bool]]:
        """Columns, the rows in them, and false when it ended before its time."""
        from eventchain_kernels.native import fetch_rows, jit

        run = jit.function("fetch_rows", "generic")
        functions = np.array([_address(self._library[name]) for name in fetch_rows.FUNCTIONS], np.int64)
        mutex = self._library.sqlite3_db_mutex(self._connection) or 0
        pending, widths = 0, list(widths)
        statement = ctypes.c_void_p()
        try:
            text = query.encode()
            if self._library.sqlite3_prepare_v2(
                self._connection, text, len(text), ctypes.byref(statement), None
            ):
                yield [], 0, False
                return
            while limit is None or limit > 0:
                rows = ROWS if limit is None else min(limit, ROWS)
                columns = [
                    _Column(field.type, rows, width) for field, width in zip(schema, widths, strict=True)
                ]
                records = np.array([column.record() for column in columns], np.int64)
                state = np.array([0, pending, 0, 0], np.int64)
                run(
                    functions.ctypes.data, statement.value, mutex,
                    records.ctypes.data, len(columns), rows, state.ctypes.data,
                )  # fmt: skip
                count, pending, status, full = state.tolist()
                limit = None if limit is None else limit - count
                over = status not in (fetch_rows.ROW, fetch_rows.FULL)
                yield columns, count, not over or status == fetch_rows.DONE
                if over:
                    return
                if status == fetch_rows.FULL:
                    widths[full] = 2 * columns[full].capacity // rows + 1
        finally:
            self._library.sqlite3_finalize(statement)


def _batch(columns: list[_Column], count: int, schema: Any) -> Any:
    return pa.RecordBatch.from_arrays([column.take(count) for column in columns], schema=schema)


class _Column:
    """Room for one column of a batch."""

    def __init__(self, kind: Any, rows: int, width: int) -> None:
        self._kind = kind
        self._fixed = kind == pa.int64()
        self.capacity = min(rows * width + MIN_BYTES, MAX_BYTES)
        self._values: NDArray[Any] = (
            np.empty(rows, np.int64) if self._fixed else np.empty(self.capacity, np.uint8)
        )
        self._offsets = np.zeros(0 if self._fixed else rows + 1, np.int32)
        self._present = np.empty(0 if self._fixed else rows, np.uint8)

    def record(self) -> tuple[int, ...]:
        """As the machine code is told of it."""
        arrays = self._values, self._offsets, self._present
        return _CLASSES[self._kind], *(array.ctypes.data for array in arrays), self.capacity

    def width(self, count: int) -> int:
        """Bytes to set aside for a value of this column, going by the first rows."""
        return 0 if self._fixed else min(int(self._offsets[count]) * 5 // (4 * count) + 1, MAX_WIDTH)

    def take(self, count: int) -> Any:
        """The first rows as an Arrow array; text has not been looked at."""
        if self._fixed:
            return pa.Array.from_buffers(self._kind, count, [None, pa.py_buffer(_cut(self._values, count))])
        present = self._present[:count]
        bits = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
        values = _cut(self._values, int(self._offsets[count]))
        buffers = [bits, pa.py_buffer(_cut(self._offsets, count + 1)), pa.py_buffer(values)]
        return pa.Array.from_buffers(self._kind, count, buffers)


def _valid_rows(batch: Any) -> int:
    """How many rows come before the first text that is not UTF-8."""

    def invalid(rows: int) -> bool:
        try:
            batch.slice(0, rows).validate(full=True)
        except pa.ArrowInvalid:
            return True
        return False

    count: int = batch.num_rows
    return bisect_left(range(count), True, key=lambda row: invalid(row + 1)) if invalid(count) else count


def _cut(array: NDArray[Any], length: int) -> NDArray[Any]:
    """The first elements; copied, where most of the memory would be kept for nothing."""
    return array[:length].copy() if 2 * length < len(array) else array[:length]


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0
