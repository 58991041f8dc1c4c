"""The two databases that a key store may be in: how to connect, begin, make the table and scrub it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, inspect
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import CreateTable

from eventchain.errors import StoreError
from eventchain.eventstores.open import parse_file_url
from eventchain.subjects.keys import TABLE, metadata, table

BUSY_SECONDS = 60.0
"""How long to wait for another process's transaction."""
NEW = "`eventchain keys init` makes a new one; an existing one comes back from a backup only"
AGAIN = "then run the same command again"


class SQLite:
    """A file in WAL mode: who reads does not wait for who writes."""

    begin = "BEGIN IMMEDIATE"

    def __init__(self, url: str) -> None:
        self._path = Path(parse_file_url(url).path).resolve()
        self._mode = "rw"
        self.engine = create_engine("sqlite://", creator=self._connect, poolclass=QueuePool)

    def _connect(self) -> sqlite3.Connection:
        if self._mode == "rw" and not self._path.is_file():
            raise StoreError(f"there is no key store at {self._path}", hint=NEW)
        connection = sqlite3.connect(
            f"{self._path.as_uri()}?mode={self._mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,  # the pool lends a connection to one thread at a time
        )
        for pragma in ("synchronous = FULL", "secure_delete = ON", "trusted_schema = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def exists(self) -> bool:
        return self._path.is_file()

    def create(self) -> None:
        self._mode = "rwc"
        with self.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.execute(CreateTable(table, if_not_exists=True))
        self.engine.dispose()
        self._mode = "rw"

    def scrub(self) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql("VACUUM")
            ((busy, _, _),) = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise StoreError(
                f"{self._path}: a reader of an old state keeps destroyed keys in the write-ahead log",
                hint=f"close it, {AGAIN}",
            )

    def explain(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        hint = NEW if "no such table" in str(cause) else "check the file, its rights and the disk"
        return StoreError(f"{self._path}: {cause}", hint=hint)


class PostgreSQL:
    """A table in a database that is there. The URL may name a ``schema``."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg

            from eventchain import postgresql
        except ImportError as error:
            raise StoreError(
                "a key store in PostgreSQL needs psycopg", hint='pip install "eventchain[postgresql]"'
            ) from error
        self._postgresql = postgresql
        self._driver_error = psycopg.Error
        self._server = postgresql.parse_url(url, "schema")
        with closing(self._connect()) as first:
            self._schema = self._server.options.get("schema") or postgresql.home_schema(first, self._server)
        self.engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            execution_options={"schema_translate_map": {None: self._schema}},
        )
        event.listen(self.engine, "checkout", self._check)

    begin = "BEGIN; SET LOCAL synchronous_commit = on"

    def _connect(self) -> Any:
        return self._postgresql.connect(self._server, read_only=False)

    def _check(self, connection: Any, record: Any, proxy: Any) -> None:
        """A pooled connection that the server ended is replaced."""
        if not self._postgresql.is_alive(connection):
            raise DisconnectionError

    @property
    def _name(self) -> str:
        return f"{self._postgresql.quoted(self._schema)}.{TABLE}"

    def exists(self) -> bool:
        return inspect(self.engine).has_table(TABLE, self._schema)

    def create(self) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(self.begin)
            if not inspect(connection).has_table(TABLE, self._schema):
                metadata.create_all(connection)
                connection.exec_driver_sql(self._postgresql.unsampled(self._name, ["wrapped"]))

    def scrub(self) -> None:
        with closing(self._connect()) as connection:
            try:
                self._postgresql.rewrite(connection, self._server, self._name, ["wrapped"])
            except self._driver_error as error:
                raise self.explain(error) from error
            except StoreError as error:
                hint = f"let the table's owner do it, or end that transaction, {AGAIN}"
                raise StoreError(error.message, hint=hint) from error

    def explain(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        if getattr(cause, "sqlstate", None) == "42P01":  # no such table
            return StoreError(f"{self._server.shown}: there is no key store", hint=NEW)
        return self._postgresql.explained(cause, self._server)
