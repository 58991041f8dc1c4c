"""PostgreSQL as a chain store's database: its writer lock, its schema and what its errors mean."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any

import psycopg
from psycopg import pq
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from eventchain.chainstores import schema
from eventchain.chainstores.sql import SQLChainStore
from eventchain.errors import LockedError, StoreError
from eventchain.postgresql import (
    connect,
    explained,
    home_schema,
    is_alive,
    parse_url,
    quoted,
    rewrite,
    unsampled,
)

LOCK = 0x65766368
"""The first half of the advisory lock's key; the second is the oid of the table ``branches``."""
LOCK_SECONDS = 1.0
"""For how long to try: of a writer that was killed the server hears a moment later."""
NEW = "check the URL; `eventchain init` makes a new chain store"
SECRET = {
    "pieces": ["salts"],
    "tiles": ["hashes"],
    "blocks": ["header", "manifest"],
    "branch_events": ["data", "metadata"],
}
"""What an erasure leaves nothing of in the server's files."""
TYPES = {"BIGINT": "bigint", "TEXT": "text", "BLOB": "bytea"}
SHAPE = """
SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL), a.attnotnull,
       coalesce(a.attnum = ANY(k.conkey), false), c.relkind::text || c.relpersistence::text
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY(%(tables)s) AND c.relkind <> 'i'
UNION ALL
SELECT c.relname::text, 'trigger ' || t.tgname, '', false, false, ''
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY(%(tables)s) AND NOT t.tgisinternal
UNION ALL
SELECT c.relname::text, 'rule ' || r.rulename, '', false, false, ''
FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY(%(tables)s)
UNION ALL
SELECT c.relname::text, 'index ' || x.relname, '', false, false, ''
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_class AS x ON x.oid = i.indexrelid
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY(%(tables)s)
  AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.indexrelid)
"""
HOLDER = """
SELECT a.application_name FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class PostgreSQLChainStore(SQLChainStore):
    """``postgresql://user@host/database?schema=…``; the database must be there. It may be the events', though
    another one, in other hands, is better."""

    def __init__(self, url: str, create: bool) -> None:
        self._server = PostgreSQLDatabase(url, create)
        super().__init__(self._server)

    def discard(self) -> None:
        """Drop the tables again if they were made by this object."""
        self._server.discard()


class PostgreSQLDatabase:
    """See :class:`eventchain.chainstores.sql.Database`.

    The writer lock is an advisory lock of one connection, and all writing goes through that connection: who
    has lost it, with its lock, cannot write on.
    """

    driver_error: type[Exception] = psycopg.Error

    def __init__(self, url: str, create: bool) -> None:
        self._server = parse_url(url, "schema")
        self.url = self._server.shown
        self._made = False
        self._writer_connection: Connection | None = None
        with self._errors(), closing(self._connect()) as first:
            self._schema = self._server.options.get("schema") or home_schema(first, self._server)
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            poolclass=QueuePool,
            paramstyle="format",
            execution_options={"schema_translate_map": {None: self._schema}},
        )
        event.listen(self._engine, "checkout", _check)
        try:
            with self._errors():
                if create:
                    self._create()
                self._check_shape()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    def discard(self) -> None:
        if self._made:
            with self._errors(), self._engine.begin() as connection:
                connection.exec_driver_sql("BEGIN")
                schema.metadata.drop_all(connection)
            self.close()

    # -- connections

    def _connect(self) -> psycopg.Connection[Any]:
        return connect(self._server, read_only=False)

    def writer(self) -> AbstractContextManager[None]:
        return self._writer()

    @contextmanager
    def _writer(self) -> Iterator[None]:
        with self._errors(), self._engine.connect() as connection:
            self._take_lock(connection)
            connection.commit()  # of SQLAlchemy's own transaction; the lock is the session's
            self._writer_connection = connection
            try:
                yield
            finally:
                self._writer_connection = None
                with suppress(SQLAlchemyError, psycopg.Error):  # a lost connection has lost its lock too
                    connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")
                    connection.exec_driver_sql("RESET application_name")

    def _take_lock(self, connection: Connection) -> None:
        branches = f"{quoted(self._schema)}.branches"
        key = connection.exec_driver_sql("SELECT %s::regclass::oid::int8", (branches,)).scalar()
        name = f"eventchain, pid {os.getpid()} on {socket.gethostname()}"[:63]
        until = time.monotonic() + LOCK_SECONDS
        while True:
            found = connection.exec_driver_sql(
                "SELECT pg_try_advisory_lock(%s, (%s::int8 - 2147483648)::int4)", (LOCK, key)
            ).scalar()
            if found:
                connection.exec_driver_sql("SELECT set_config('application_name', %s, false)", (name,))
                return
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        # pg_locks shows the key's second half as an unsigned number.
        number = (int(key or 0) - 2**31) % 2**32
        holder = connection.exec_driver_sql(HOLDER, (LOCK, number)).scalar()
        raise LockedError(
            f"another writer holds {self.url}{f' ({holder})' if holder else ''}",
            hint="wait until it is done or stop it; its lock ends with its connection",
        )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with self.reading() as connection:
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            try:
                yield connection
            finally:
                connection.exec_driver_sql("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        connection = self._writer_connection
        if connection is None:
            raise RuntimeError("writing needs the writer lock")
        with connection.begin():
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
            yield connection
            if _driver(connection).info.transaction_status == pq.TransactionStatus.INERROR:
                # COMMIT would roll back and say nothing.
                raise StoreError(f"{self.url}: a write failed, and all of its transaction was taken back")

    def scrub(self, *, rows: bool) -> None:
        connection = self._writer_connection
        assert connection is not None
        for name, columns in SECRET.items():
            if rows or name == "pieces":
                rewrite(_driver(connection), self._server, f"{quoted(self._schema)}.{name}", columns)

    # -- opening

    def _create(self) -> None:
        with self._engine.begin() as connection:  # all tables or none, also with two of us at it
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK}, 0)")
            if not self._shape(connection):
                schema.metadata.create_all(connection)
                connection.exec_driver_sql(unsampled(f"{quoted(self._schema)}.pieces", ["salts"]))
                self._made = True

    def _check_shape(self) -> None:
        with self._engine.connect() as connection:
            found = self._shape(connection)
        if not found:
            raise StoreError(f"{self.url}: there is no chain store", hint=NEW)
        hint = "its schema was changed by hand; restore it from a copy"
        for name, table in schema.metadata.tables.items():
            if name not in found:
                raise StoreError(f"{self.url}: table {name} is missing", hint=hint)
            wanted = {
                (c.name, TYPES[str(c.type)], not c.nullable, c.primary_key, "rp") for c in table.columns
            }
            if changed := ", ".join(sorted({column[0] for column in wanted ^ found[name]})):
                raise StoreError(f"{self.url}: table {name} was altered: {changed}", hint=hint)

    def _shape(self, connection: Connection) -> dict[str, set[tuple[Any, ...]]]:
        """What the schema's tables look like: columns with type, NOT NULL, key and kind of table, and what
        was added to them: triggers and rules, which act on every write, and indexes."""
        shape: dict[str, set[tuple[Any, ...]]] = {}
        values = {"schema": quoted(self._schema), "tables": list(schema.metadata.tables)}
        for table, *column in connection.exec_driver_sql(SHAPE, values):
            shape.setdefault(table, set()).add(tuple(column))
        return shape

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, psycopg.Error) as error:
            raise self.explain(error) from error

    def explain(self, error: Exception) -> StoreError:
        return explained(getattr(error, "orig", None) or error, self._server)


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    return driver


def _check(connection: Any, record: Any, proxy: Any) -> None:
    """A pooled connection that the server ended is replaced."""
    if not is_alive(connection):
        raise DisconnectionError
