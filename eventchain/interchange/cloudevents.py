"""CloudEvents 1.0 in JSON Lines files: one event a line, plain or gzip."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import IO, Any, cast

import pyarrow as pa

from eventchain.errors import FormatError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.interchange.files import line_error, opened_plain, replaced
from eventchain.interchange.line import Event, Versions, from_line, to_line

ROWS = 8192
BYTES = 32 << 20
"""A batch ends at this many rows, or at this many bytes of lines."""


def read(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The events of a file as record batches of EVENT_SCHEMA; :mod:`~eventchain.interchange.line` says what
    becomes what. Positions count the events from 0.

    Blank lines and a byte order mark are passed over. Raises FormatError with the number of the line.
    """
    versions, events, size, count = Versions(), [], 0, 0
    for number, line in _events(path):
        try:
            events.append(from_line(line, versions))
        except FormatError as error:
            raise line_error(path, number, error) from error
        size += len(line)
        if len(events) == ROWS or size >= BYTES:
            yield _batch(events, count)
            count += len(events)
            events, size = [], 0
    if events:
        yield _batch(events, count)


def write(batches: Iterable[Any], path: str | os.PathLike[str]) -> int:
    """Write record batches of EVENT_SCHEMA as lines, gzip when the name ends in ``.gz``. Returns how many."""
    count, versions = 0, Versions()
    with ExitStack() as stack:
        file = stack.enter_context(replaced(path))
        if os.fspath(path).endswith(".gz"):  # no time and no name inside: the same events, the same bytes
            packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
            file = cast(IO[bytes], stack.enter_context(packed))
        for batch in batches:
            columns = [batch.column(name).to_pylist() for name in Event._fields]
            for row in zip(*columns, strict=True):
                file.write(to_line(Event(*row), versions) + b"\n")
            count += batch.num_rows
    return count


def line_of(path: str | os.PathLike[str], row: int) -> int:
    """The number of the line where the event ``row``, counted from 0, stands."""
    return next(islice(_events(path), row, None))[0]


def _events(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """The lines that are events, with their numbers from 1."""
    for number, line in _lines(path):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line and not line.isspace():
            yield number, line


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    number = 0
    with opened_plain(path) as file:
        try:
            for number, line in enumerate(file, 1):
                yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            damage = FormatError(f"the gzip data is damaged: {error}", hint="is the file complete?")
            raise line_error(path, number + 1, damage) from error


def _batch(events: list[Event], before: int) -> Any:
    columns = [pa.array(range(before, before + len(events)), pa.int64())]
    columns += [
        pa.array(values, EVENT_SCHEMA.field(name).type)
        for name, values in zip(Event._fields, zip(*events, strict=True), strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)
