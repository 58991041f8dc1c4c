"""Events in Parquet: the columns of an event batch, as they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eventchain.errors import ConfigError, FormatError
from eventchain.formats.event import EVENT_SCHEMA
from eventchain.interchange.files import STANDARD, opened, replaced

ROWS = 32_768
_KINDS = {
    pa.int64(): (pa.types.is_integer, "integers"),
    pa.string(): (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t), "UTF-8 strings"),
    pa.binary(): (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t), "binary"),
}


def read(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The events of a Parquet file as record batches of EVENT_SCHEMA.

    It needs all columns of an event but ``position``, which is ignored: positions count from 0. Dictionary
    encoding and other widths are converted. Raises FormatError for a missing column, one of another type, a
    null where none may be and a damaged file.
    """
    name = os.fspath(path)
    try:
        with opened(path) as source, pq.ParquetFile(source) as file:
            _check(name, file.schema_arrow)
            count = 0
            for batch in file.iter_batches(ROWS, columns=EVENT_SCHEMA.names[1:]):
                columns = [pa.array(np.arange(count, count + batch.num_rows))]
                columns += [_column(name, batch.column(f.name), f, count) for f in list(EVENT_SCHEMA)[1:]]
                yield pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)
                count += batch.num_rows
    except (pa.ArrowException, OSError) as error:  # for damaged pages Arrow raises OSError
        raise FormatError(
            f"{name} cannot be read as Parquet: {error}", hint="is the file complete?"
        ) from error


def write(batches: Iterable[Any], path: str | os.PathLike[str]) -> int:
    """Write record batches of EVENT_SCHEMA, positions too. Returns how many events."""
    if os.fspath(path) == STANDARD:
        raise ConfigError("Parquet cannot be written to standard output", hint="give a file name")
    count = 0
    with replaced(path) as file, pq.ParquetWriter(file, EVENT_SCHEMA, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _plain(type_: Any) -> Any:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _check(name: str, schema: Any) -> None:
    for field in list(EVENT_SCHEMA)[1:]:
        fits, kind = _KINDS[field.type]
        if schema.names.count(field.name) != 1:
            raise FormatError(
                f"{name} has no column {field.name}"
                if field.name not in schema.names
                else f"{name} has several columns {field.name}",
                hint=f"an event has {', '.join(EVENT_SCHEMA.names[1:])}",
            )
        found = schema.field(field.name).type
        if not fits(_plain(found)) and not (field.nullable and pa.types.is_null(found)):
            raise FormatError(f"the column {field.name} of {name} is {found}, not {kind}")


def _column(name: str, column: Any, field: Any, before: int) -> Any:
    if column.null_count and not field.nullable:
        row = before + column.is_null().to_numpy(zero_copy_only=False).argmax()
        raise FormatError(f"{name}, row {row}: {field.name} is null", hint="−2^63 is an unknown number")
    try:
        column = column.cast(field.type)
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        rows = f"rows {before} to {before + len(column) - 1}"
        raise FormatError(f"{name}, {rows}: {field.name}: {error}") from error
    return column
