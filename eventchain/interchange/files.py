"""Opening, recognising and atomically writing files of events."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from eventchain.errors import ConfigError, FormatError, StoreError

STANDARD = "-"
"""Stands for standard input or output."""
LINES = (".jsonl", ".ndjson", ".json")
PARQUET = ".parquet"


def read_events(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The events of a file as record batches of EVENT_SCHEMA; the content says of which kind it is.

    Positions count the file's events from 0. Raises FormatError for a broken file and StoreError when it
    cannot be read, both possibly after some batches: append them in one transaction.
    """
    from eventchain.interchange import cloudevents, parquet

    if _is_parquet(path):
        return parquet.read(path)
    return cloudevents.read(path)


def place(path: str | os.PathLike[str], row: int, *, short: bool = False) -> str:
    """Where the event of this number, counted from 0, stands in a file: ``events.jsonl, line 7``; ``short``
    leaves the file's name out."""
    from eventchain.interchange import cloudevents

    if read_once(path):
        where = f"event {row + 1}"
    else:
        where = f"row {row}" if _is_parquet(path) else f"line {cloudevents.line_of(path, row)}"
    return where if short else f"{_called(path)}, {where}"


def read_once(path: str | os.PathLike[str]) -> bool:
    """Whether what is read is gone: standard input, a pipe."""
    return os.fspath(path) == STANDARD or Path(path).is_fifo()


def _called(path: str | os.PathLike[str]) -> str:
    return "standard input" if os.fspath(path) == STANDARD else os.fspath(path)


def _is_parquet(path: str | os.PathLike[str]) -> bool:
    """By what it begins with, or by its name when it is damaged. Raises FormatError for a file that is empty
    and of a kind that never is."""
    name = os.fspath(path)
    if read_once(path):
        return False
    with opened(path) as file:
        begins = file.peek(4)[:4]
    if not begins and name.endswith((PARQUET, ".gz")):
        raise FormatError(f"{name} is empty", hint="was it written to its end?")
    return begins == b"PAR1" or name.endswith(PARQUET)


def write_events(batches: Iterable[Any], path: str | os.PathLike[str]) -> int:
    """Write record batches to a file whose name says of which kind: ``.parquet``, or CloudEvents for
    ``.jsonl`` and its like, also with ``.gz``, and for ``-``. Returns how many events.

    The file appears, or replaces what was there, only when it is complete. Raises ConfigError for a name
    that says nothing and StoreError when it cannot be written.
    """
    from eventchain.interchange import cloudevents, parquet

    name = os.fspath(path)
    if name.endswith(PARQUET):
        return parquet.write(batches, path)
    if name == STANDARD or name.removesuffix(".gz").endswith(LINES):
        return cloudevents.write(batches, path)
    raise ConfigError(
        f"the name {name} does not say what to write",
        hint=f"end it in {PARQUET}, .jsonl or .jsonl.gz, or give - for CloudEvents on standard output",
    )


@contextmanager
def opened_plain(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to read, unpacked when its content is gzip."""
    with opened(path) as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast(IO[bytes], unpacked)
        else:
            yield file


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    if os.fspath(path) == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115  (closed below; only opening is translated)
    except FileNotFoundError as error:
        hint = f"a relative name starts from the folder {Path.cwd()}"
        raise StoreError(f"cannot read {os.fspath(path)}: {error.strerror}", hint=hint) from error
    except OSError as error:
        hint = "give a file that you may read"
        raise StoreError(f"cannot read {os.fspath(path)}: {error.strerror}", hint=hint) from error
    with file:
        yield file


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write, which takes its name only when it is complete and on disk."""
    if os.fspath(path) == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if target.exists() and not target.is_file():  # a device or a pipe: its name would be taken
        raise StoreError(f"cannot write {target}: it is no ordinary file", hint="- is standard output")
    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        hint = "name a file in a folder that you may write to"
        raise StoreError(f"cannot write {target}: {error.strerror or error}", hint=hint) from error
    finally:
        temporary.unlink(missing_ok=True)


def line_error(path: str | os.PathLike[str], number: int, error: FormatError) -> FormatError:
    return FormatError(f"{_called(path)}, line {number}: {error.message}", hint=error.hint)
