"""SQLite as a chain store's database: a file, its lock, its pragmas and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from eventchain.chainstores import schema
from eventchain.chainstores.lock import writer_lock
from eventchain.errors import ConfigError, StoreError
from eventchain.sqlite_readonly import CREATE, IMMUTABLE, NORMAL, refusal, unseen_log, would_leave_files

OLDEST = (3, 37)
"""The first version of SQLite with STRICT tables."""
BUSY_SECONDS = 30
PRAGMAS = (
    "synchronous = FULL",  # with WAL: a commit is on the disk when it returns
    "cache_size = -4096",  # KiB: what a transaction writes; the rest of a larger one would never be used
    "journal_size_limit = 67108864",
    "trusted_schema = OFF",  # the file may have been prepared by someone else
    "cell_size_check = ON",  # notice damaged pages when they are read
    "secure_delete = ON",  # a salt that is replaced by its commitment is overwritten
)
NEW = "check the path; `eventchain init` makes a new chain store"

_MEANING = {
    sqlite3.SQLITE_ERROR: ("the schema is not a chain store's", "restore the file from a copy"),
    sqlite3.SQLITE_BUSY: ("another program keeps the file locked", "close it and try again"),
    sqlite3.SQLITE_LOCKED: ("another program keeps the file locked", "close it and try again"),
    sqlite3.SQLITE_READONLY: ("the file cannot be written", "check the rights of the file and its folder"),
    sqlite3.SQLITE_IOERR: ("the disk failed", "check the disk, then run the same command again"),
    sqlite3.SQLITE_CORRUPT: ("the file is damaged", "restore it from a copy and run `eventchain verify`"),
    sqlite3.SQLITE_NOTADB: ("not a chain store", NEW),
    sqlite3.SQLITE_FULL: ("the disk is full", "make room and run it again; what was committed is kept"),
    sqlite3.SQLITE_CANTOPEN: ("the file cannot be opened", "check the path and the rights of the folder"),
    sqlite3.SQLITE_TOOBIG: ("a value is larger than SQLite allows", "keep smaller snapshots"),
    sqlite3.SQLITE_CONSTRAINT: ("the row exists already or breaks the schema", "run `eventchain verify`"),
    sqlite3.SQLITE_PERM: ("the file cannot be used", "check the rights of the file and its folder"),
}


class SQLiteDatabase:
    """See :class:`eventchain.chainstores.sql.Database`.

    The file is in WAL mode, so readers work during a long mine. Where the WAL's files cannot be made (a
    read-only folder or medium) the file is read as ``immutable``; that is refused while a WAL holds commits
    that would be missed, and a read fails if the file changed meanwhile.
    """

    driver_error: type[Exception] = sqlite3.Error

    def __init__(self, url: str, create: bool) -> None:
        self.url = url
        self._path = _path_of(url)
        self._mode = NORMAL  # SQLite itself falls back to reading where the file may not be written
        self._frozen: tuple[int, int] | None = None  # the file's state when opened as immutable
        self._engine = create_engine("sqlite://", creator=self._connect, poolclass=QueuePool)
        if sqlite3.sqlite_version_info < OLDEST:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old", hint="3.37 or newer is needed")
        try:
            if create:
                self._create()
            elif not self._path.is_file():
                raise StoreError(f"{self._path}: there is no such file", hint=NEW)
            self._check()
        except BaseException as error:
            self._engine.dispose()
            if isinstance(error, SQLAlchemyError | sqlite3.Error):
                raise self.explain(error) from error
            raise

    def close(self) -> None:
        self._engine.dispose()

    # -- connections

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?{self._mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,  # no implicit BEGIN: each read sees the last commit
            check_same_thread=False,  # the pool lends a connection to one thread at a time
        )
        connection.text_factory = _text
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def writer(self) -> AbstractContextManager[None]:
        return self._writer()

    @contextmanager
    def _writer(self) -> Iterator[None]:
        if self._frozen:
            raise StoreError(
                f"{self._path}: opened for reading only", hint="the file or its folder cannot be written"
            )
        with writer_lock(self._path):
            try:
                with self._engine.connect() as connection:  # a copy may have come without WAL mode
                    connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            except SQLAlchemyError as error:
                raise self.explain(error) from error
            yield

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection
        if self._frozen and self._frozen != self._state():
            raise StoreError(f"{self._path}: changed while it was read", hint="run it again, or read a copy")

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self.reading() as connection:
            connection.exec_driver_sql("BEGIN")  # deferred: the first read fixes what is seen
            try:
                yield connection
            finally:
                connection.exec_driver_sql("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def scrub(self, *, rows: bool) -> None:
        """What was overwritten may still lie in free space of pages and in the write-ahead log: the file is
        written anew, and the log emptied."""
        with self._engine.connect() as connection:
            connection.exec_driver_sql("VACUUM")
            ((busy, _, _),) = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise StoreError(
                f"{self._path}: a reader of an old state keeps what was erased in the write-ahead log",
                hint="close it, then run `eventchain erase --resume`",
            )

    # -- opening

    def _create(self) -> None:
        self._mode = CREATE
        with self._engine.connect() as connection:
            if not connection.exec_driver_sql("SELECT count(*) FROM sqlite_schema").scalar():
                connection.exec_driver_sql("PRAGMA page_size = 4096")  # a full tile fills two overflow pages
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                with self.writing() as connection:  # all tables or none, also with two of us at it
                    schema.metadata.create_all(connection)
        self._engine.dispose()
        self._mode = NORMAL

    def _check(self) -> None:
        if would_leave_files(str(self._path)):
            self._freeze()
        try:
            found = self._shape()
        except SQLAlchemyError as error:
            if self._frozen or _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            self._freeze()
            found = self._shape()
        if not found:
            raise StoreError(f"{self._path}: not a chain store", hint=NEW)
        hint = "its schema was changed by hand; restore the file from a copy"
        for table, columns in _expected_shape().items():
            if table not in found:
                raise StoreError(f"{self._path}: table {table} is missing", hint=hint)
            if changed := ", ".join(sorted({column[0] for column in columns ^ found[table]})):
                raise StoreError(f"{self._path}: table {table} was altered: {changed}", hint=hint)

    def _freeze(self) -> None:
        if log := unseen_log(str(self._path)):
            raise refusal(str(self._path), log)
        self._engine.dispose()
        self._mode = IMMUTABLE
        self._frozen = self._state()

    def _state(self) -> tuple[int, int]:
        state = self._path.stat()
        return state.st_size, state.st_mtime_ns

    def _shape(self) -> dict[str, set[tuple[Any, ...]]]:
        with self._engine.connect() as connection:
            return _shape(connection)

    def explain(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        meaning, hint = _MEANING.get(_code(error), ("cannot be used", "run `eventchain verify`"))
        return StoreError(f"{self._path}: {meaning}: {cause}", hint=hint)


def _path_of(url: str) -> Path:
    hint = "write it as sqlite:///chain.db, or sqlite:////var/lib/chain.db for an absolute path"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"{url!r} is not a URL", hint=hint) from error
    if not parsed.database or parsed.database == ":memory:" or parsed.host or parsed.query:
        raise ConfigError(f"{url!r} does not name a chain file", hint=hint)
    return Path(parsed.database).resolve()  # one file, one lock, by whatever name it was reached


def _text(raw: bytes) -> str:
    """Text as it stands; bytes that are no UTF-8 (put there by hand) become U+FFFD and never fail a read."""
    return raw.decode("utf-8", "replace")


def _code(error: Exception) -> int:
    """SQLite's primary result code behind an error, 0 for none."""
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", 0)
    return int(code) & 0xFF


def _shape(connection: Connection) -> dict[str, set[tuple[Any, ...]]]:
    """What the schema's tables look like: columns with type, NOT NULL and key, whether STRICT, and what was
    added to them: triggers, which act on every write, and indexes, which may be read in their place."""
    shape: dict[str, set[tuple[Any, ...]]] = {}
    columns = """
        SELECT t.name, c.name, c.type, c."notnull", c.pk, t.strict
        FROM pragma_table_list AS t JOIN pragma_table_xinfo(t.name) AS c
        WHERE t.schema = 'main' AND t.type = 'table'
        UNION ALL
        SELECT tbl_name, type || ' ' || name, NULL, NULL, NULL, NULL
        FROM sqlite_schema WHERE type IN ('trigger', 'index') AND sql IS NOT NULL
    """
    for table, *column in connection.exec_driver_sql(columns):
        if table in schema.metadata.tables:
            shape.setdefault(table, set()).add(tuple(column))
    return shape


@cache
def _expected_shape() -> dict[str, set[tuple[Any, ...]]]:
    """The shape of a new chain store, taken from one: no second description to keep in step."""
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(":memory:"))
    try:
        with engine.begin() as connection:
            schema.metadata.create_all(connection)
            return _shape(connection)
    finally:
        engine.dispose()
