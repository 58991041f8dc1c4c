"""What the event stores in SQLite files share: the connection, its errors, and reading."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any
from urllib.parse import quote

from eventchain.errors import StoreError
from eventchain.eventstores.open import parse_file_url
from eventchain.eventstores.sqlite_arrow import EventTable, read_events
from eventchain.eventstores.sqlite_columns import quoted
from eventchain.eventstores.sqlite_index import IndexCheck
from eventchain.eventstores.sqlite_rows import RowReader, connect
from eventchain.sqlite_readonly import (
    CREATE,
    IMMUTABLE,
    NORMAL,
    FileState,
    awaits_writer,
    is_refused,
    refusal,
    unseen_log,
    would_leave_files,
)

BUSY_SECONDS = 60.0
"""How long to wait for another process's write transaction."""
CHECK_CACHE_KIB = 64 * 1024
"""Page cache for checking indexes against rows. Reading in order has SQLite's 2 MB: a larger one is filled
once with pages that nobody comes back to, which takes longer than to use the same memory again."""
ROW_FAULT = re.compile(r"(NULL|non-\w+|TEXT|NUMERIC) value in |CHECK constraint ")
"""How ``integrity_check`` speaks of a row's own values, which ``read`` gives as they stand."""
MAX_FAULTS = 100
"""Messages after which ``integrity_check`` ends."""
MAX_FOUND = 1000
"""Events with one id that ``find`` returns at most."""
LOOK_SECONDS = 0.05
"""Between two looks for a commit."""


class SQLiteFile:
    """Reads events from a table of an SQLite file. Subclasses say which table, and what it must look like.

    Usable from several threads, which take turns. Not usable across ``fork``. A file that was replaced on
    disk is opened anew on the next call. Read access is enough (see :mod:`.sqlite_readonly`). Failures are
    StoreError.
    """

    creatable = False
    """Whether ``create`` can make such a store."""
    told = True
    """See ``wait``."""

    def __init__(self, url: str, *options: str, create: bool = False) -> None:
        self._url = url
        path, self._options = parse_file_url(url, *options)
        self._path = os.path.abspath(path)
        self._lock = RLock()
        self._opened: FileState | None = None  # the file when it was opened
        self._mode = NORMAL
        self._connection: sqlite3.Connection | None = None
        self._rows: RowReader | None = None
        self._seen: tuple[object, ...] = ()  # the database as it was when ``head`` looked
        with self._connected(create=create) as connection:
            self._table(connection)

    @property
    def url(self) -> str:
        return self._url

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Make the table; called in ``create`` mode only."""

    def _table(self, connection: sqlite3.Connection) -> EventTable:
        """Check the table, each time anew since its schema may be changed under us, and describe it."""
        raise StoreError(f"{type(self).__name__} names no table")

    def _find(self, event_id: str, table: EventTable) -> tuple[str, tuple[Any, ...]] | None:
        """The condition, with its parameters, that rows of this event meet. None: there can be none."""
        raise StoreError(f"{type(self).__name__} does not say how to find an event")

    # -- the contract

    def read(self, after: int | None, limit: int) -> Any:
        with self._snapshot() as (connection, table):
            return read_events(connection, self._rows, _rows_of(table), after, limit)

    def head(self) -> int | None:
        """SQLite has one writer at a time, so the highest position committed is safe to seal."""
        with self._connected() as connection:
            self._seen = _state(connection)
        with self._snapshot() as (connection, table):
            query = f"SELECT max({table.position}) FROM {_rows_of(table).table}"
            found = connection.execute(query).fetchone()
            return None if found[0] is None else int(found[0])

    def wait(self, seconds: float) -> None:
        """SQLite tells nobody of a commit; it says in a few microseconds whether there was one."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with self._connected() as connection:
                if _state(connection) != self._seen:
                    return
            time.sleep(min(LOOK_SECONDS, left))

    def find(self, event_id: str) -> Any:
        with self._snapshot() as (connection, table):
            condition, parameters = self._find(event_id, table) or ("0", ())
            return read_events(connection, self._rows, table, None, MAX_FOUND, condition, parameters)

    def index_check(self) -> IndexCheck:
        with self._connected() as connection:
            table, mode = self._table(connection), self._mode
            unchanged = partial(self._require_unchanged, mode, self._opened)
            own, rows = connect(
                self._uri(mode), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                return IndexCheck(own, rows, table, self.faults, unchanged)
            except BaseException:
                own.close()
                raise

    def faults(self) -> list[str]:
        """What ``PRAGMA integrity_check`` says of the table's indexes."""
        with self._connected() as connection:
            table = self._table(connection).table.removeprefix("main.")
            mode, opened = self._mode, self._opened
        try:  # on a connection of its own, so that others read meanwhile
            with closing(sqlite3.connect(self._uri(mode), uri=True, timeout=BUSY_SECONDS)) as connection:
                connection.execute(f"PRAGMA cache_size = -{CHECK_CACHE_KIB}")
                found = [row[0] for row in connection.execute(f"PRAGMA main.integrity_check({table})")]
        except sqlite3.Error as error:
            raise self._explained(error) from error
        finally:
            self._require_unchanged(mode, opened)
        faults = [message for message in found if message != "ok" and not ROW_FAULT.match(message)]
        if len(found) >= MAX_FAULTS and not faults:
            faults.append(f"{found[0]}, and so many more that the indexes could not be checked")
        return faults

    def now(self) -> int:
        with self._connected() as connection:
            return int(connection.execute("SELECT strftime('%s', 'now')").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._opened = self._rows = None

    # -- the connection

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[sqlite3.Connection, EventTable]]:
        """One view of the database for all queries in it, and the table as it is there."""
        with self._connected() as connection:
            if connection.in_transaction:  # read while appending: the batches to append may come from here
                yield connection, self._table(connection)
                return
            connection.execute("BEGIN")
            try:
                yield connection, self._table(connection)
            finally:
                connection.rollback()

    @contextmanager
    def _connected(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone, with SQLite's errors as ours."""
        with self._lock:
            try:
                yield self._open(create)
            except sqlite3.Error as error:
                raise self._explained(error) from error
            finally:
                self._require_unchanged(self._mode, self._opened)

    def _require_unchanged(self, mode: str, opened: FileState | None) -> None:
        """Without locks a read that met a write gives a mixture, or an error that means nothing."""
        if mode == IMMUTABLE and opened is not None and opened.was_changed(self._path):
            raise StoreError(f"{self._path} changed while it was read", hint="run it again, or read a copy")

    def _open(self, create: bool) -> sqlite3.Connection:
        found = None
        try:
            found = FileState.of(self._path)  # before the log is looked for: what comes later shows
        except OSError as error:
            if not create:
                self.close()
                raise self._absent(error) from error
        else:
            if self._connection is not None and self._opened is not None:
                if self._mode == NORMAL and found.same_file(self._opened):
                    return self._connection
                if self._mode == IMMUTABLE and found == self._opened and not unseen_log(self._path):
                    return self._connection
        self.close()
        if create:
            return self._connect(CREATE, found)
        if would_leave_files(self._path):
            return self._connect(IMMUTABLE, found)
        try:
            return self._connect(NORMAL, found)
        except sqlite3.Error as error:
            if not is_refused(error):
                raise
            if log := unseen_log(self._path):
                raise refusal(self._path, log) from error
            return self._connect(IMMUTABLE, found)

    def _connect(self, mode: str, found: FileState | None) -> sqlite3.Connection:
        connection, rows = connect(
            self._uri(mode), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            if mode == CREATE:
                self._prepare(connection)
            connection.execute("PRAGMA synchronous = FULL")
            encoding = connection.execute("PRAGMA encoding").fetchone()[0]
            if encoding != "UTF-8":
                raise StoreError(
                    f"{self._path} keeps its text in {encoding}", hint="only databases in UTF-8 can be read"
                )
        except BaseException:
            connection.close()
            raise
        self._connection, self._rows, self._opened = connection, rows, found or FileState.of(self._path)
        self._mode = NORMAL if mode == CREATE else mode
        return connection

    def _uri(self, mode: str) -> str:
        return f"file://{quote(os.fsencode(self._path))}?{mode}"

    def _absent(self, error: OSError) -> StoreError:
        if not isinstance(error, FileNotFoundError):
            return StoreError(
                f"{self._path} cannot be reached: {error.strerror}",
                hint="check the URL, and the rights of the folders on the way",
            )
        new = (
            "`eventchain init` makes an empty one for a new chain"
            if self.creatable
            else "its application makes it"
        )
        return StoreError(
            f"there is no event store at {self._path}",
            hint=f"check the URL; {new}; one whose events are sealed already comes back from a backup only",
        )

    def _explained(self, error: sqlite3.Error) -> StoreError:
        if awaits_writer(error) and (log := unseen_log(self._path)):
            return refusal(self._path, log)
        return StoreError(f"{self._path}: {error}", hint=_hint(str(error)))


def _rows_of(table: EventTable) -> EventTable:
    """The table as its rows alone. SQLite reads an index in its place where that covers a query and is said
    to be cheaper; whoever administers the file can make both so, and leave the sealed events only there."""
    return replace(table, table=f"{table.table} NOT INDEXED")


def _state(connection: sqlite3.Connection) -> tuple[object, ...]:
    """Another value after every commit, by whomever, and for every new connection."""
    return connection, connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes


def columns(connection: sqlite3.Connection, path: str, table: str) -> dict[str, str]:
    """The columns of an ordinary table with row ids, and the types that are declared for them. Raises
    StoreError when it is something else."""
    found = connection.execute(f"PRAGMA main.table_list({quoted(table)})").fetchone()
    if found is None:
        raise StoreError(f"{path} has no table {table}", hint="is this the right file?")
    _, _, kind, _, without_rowid, _ = found
    if kind != "table" or without_rowid:
        what = f"a {kind}" if kind != "table" else "declared WITHOUT ROWID, so it keeps no order"
        raise StoreError(f"{table} in {path} is {what}", hint="events are read from an ordinary table")
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA main.table_xinfo({quoted(table)})")}


def _hint(message: str) -> str:
    if "locked" in message or "busy" in message:
        return f"another program has held the database for {BUSY_SECONDS:.0f} s"
    if "not a database" in message or "malformed" in message:
        return "the file is damaged or not an SQLite database; `PRAGMA integrity_check` says more"
    if "unable to open" in message:
        return "check that it is a file, and the rights of it, of its -wal and -shm and of the folder"
    if "readonly" in message:
        return "the file and its folder must be writable"
    if "disk" in message or "full" in message:
        return "check the free space"
    return ""
