"""What the event stores in PostgreSQL share: the connection, the table's description, and reading."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import RLock
from time import sleep
from typing import Any
from urllib.parse import quote

import psycopg

from eventchain.contracts.event_store import FenceState
from eventchain.errors import StoreError
from eventchain.eventstores.erasing import Ranges, erasing
from eventchain.eventstores.index_check import PlainCheck
from eventchain.eventstores.postgresql_arrow import SAVEPOINT, EventQuery, read_events
from eventchain.eventstores.postgresql_fence import Fence, Look, described, holders_sql, look_sql
from eventchain.postgresql import ServerURL, connect, explained, is_alive, parse_url, quoted

MAX_FOUND = 1000
"""Events with one id that ``find`` returns at most."""

DESCRIBE = """
WITH RECURSIVE
  found AS (SELECT c.oid, n.nspname, c.relname, c.relkind
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.oid = to_regclass(%s)),
  heirs(oid) AS (SELECT oid FROM found
                 UNION SELECT i.inhrelid FROM pg_inherits AS i JOIN heirs ON i.inhparent = heirs.oid),
  sequences(oid) AS (
    SELECT d.objid FROM pg_depend AS d JOIN found ON d.refobjid = found.oid
    WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    UNION
    SELECT d.refobjid FROM pg_depend AS d JOIN pg_attrdef AS a ON d.objid = a.oid
    JOIN found ON a.adrelid = found.oid
    WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass)
SELECT found.nspname::text, found.relname::text, found.relkind::text,
  ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = found.oid AND a.attnum > 0
        AND NOT a.attisdropped ORDER BY a.attnum),
  ARRAY(SELECT format_type(a.atttypid, NULL) FROM pg_attribute AS a WHERE a.attrelid = found.oid
        AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
  ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = found.oid AND a.attnum > 0
        AND a.attnotnull),
  ARRAY(SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a
        ON a.attrelid = found.oid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = found.oid AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1
        AND i.indpred IS NULL),
  ARRAY(SELECT h.oid::int8 FROM heirs AS h),
  ARRAY(SELECT s.oid::int8 FROM sequences AS s JOIN pg_class AS c ON c.oid = s.oid WHERE c.relkind = 'S')
FROM found
"""
INDEXES = """
SELECT i.indexrelid::regclass::text, ARRAY(
  SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) AS k ORDER BY k)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS m ON m.oid = c.relam
WHERE i.indrelid = to_regclass(%s) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
ORDER BY 1
"""
BY_ROWS = """
SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off
"""
BY_INDEX = """
SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on;
SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL enable_incremental_sort = off
"""


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table as the catalogs describe it. ``types`` by column, in order; ``required``: NOT NULL columns;
    ``unique``: columns with a unique index of their own; ``heirs``: oids of the table and its partitions;
    ``sequences``: oids of those that number its rows."""

    schema: str
    table: str
    types: dict[str, str]
    required: frozenset[str]
    unique: frozenset[str]
    heirs: list[int]
    sequences: list[int]

    @property
    def written(self) -> list[int]:
        """What a writer locks."""
        return [*self.heirs, *self.sequences]

    @property
    def name(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.table)}"


class PostgreSQLTable:
    """Reads events from a table of a PostgreSQL database. Subclasses say which, and how.

    Usable from several threads, which take turns. Not usable across ``fork``. A connection that the server
    ended is made anew on the next call. The right to SELECT is enough. Failures are StoreError.

    URL options: ``table``; ``schema``, without which the role's ``search_path`` finds the table; ``notify``,
    a channel whose every NOTIFY says that events may have been committed.
    """

    creatable = False
    """Whether ``create`` can make such a store."""
    default_table = default_schema = ""
    """Where the table is when the URL does not say; an empty schema stands for the role's ``search_path``."""
    default_channel = ""
    """What ``wait`` listens to when the URL does not say; nothing when empty."""

    def __init__(self, url: str, *options: str, create: bool = False, grace: float = 0.0) -> None:
        self._url = url
        self._server: ServerURL = parse_url(url, "schema", "table", "notify", *options)
        self._channel = self._server.options.get("notify", self.default_channel)
        self._lock = RLock()
        self._connection: psycopg.Connection[Any] | None = None
        self._listening: psycopg.Connection[Any] | None = None
        self._heard = False
        self._fence = Fence(grace=grace)
        try:
            if create:
                with self._connected() as connection:
                    self._prepare(connection)
            with self._snapshot():
                pass
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Without its password."""
        return self._server.shown

    @property
    def pinned_url(self) -> str:
        """The URL with the schema and table in it that were found without being stated, for a
        configuration: a role's ``search_path`` that changes later then changes nothing."""
        with self._snapshot() as (_, info, _query):
            found = {"schema": info.schema, "table": info.table}
        if info.table == self.default_table:
            del found["table"]
        if info.schema == self.default_schema:
            del found["schema"]
        stated = self._server.options
        more = [f"{name}={quote(value, safe='')}" for name, value in found.items() if name not in stated]
        return f"{self._url}{('&' if '?' in self._url else '?') if more else ''}{'&'.join(more)}"

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        """Make the table; called in ``create`` mode only."""

    def _query(self, info: TableInfo) -> EventQuery:
        """Check the table, each time anew since its schema may change under us, and say how to read it."""
        raise StoreError(f"{type(self).__name__} reads no table")

    def _find(self, event_id: str, info: TableInfo) -> tuple[str, tuple[Any, ...]] | None:
        """The condition, with its parameters, that rows of this event meet. None: there can be none."""
        raise StoreError(f"{type(self).__name__} does not say how to find an event")

    def _detect(self, connection: psycopg.Connection[Any]) -> str:
        """The table's name where the URL states none."""
        return self.default_table

    def _sequences(self, connection: psycopg.Connection[Any], schema: str) -> list[int]:
        """The oids of sequences in this schema that number the rows, beyond those that the table's own
        columns draw from."""
        return []

    # -- the contract

    def read(self, after: int | None, limit: int) -> Any:
        with self._snapshot() as (connection, _, query):
            return read_events(connection, query, after, limit)

    def head(self) -> int | None:
        """See :mod:`.postgresql_fence`. Waits up to a second for writers that are at it."""
        with self._described() as (connection, info, query):
            standby = connection.execute("SELECT pg_is_in_recovery()").fetchone()
            if standby and standby[0]:
                raise StoreError(
                    f"{self.url} is a standby, where it does not show what is still being written",
                    hint="seal from the primary; `eventchain verify` may read a standby",
                )
            sql = look_sql(query.table, query.position, info.written)

            def look() -> Look:
                newest, writers = connection.execute(sql).fetchone() or (None, ())
                return Look(newest, frozenset(writers))

            return self._fence.head(look)

    def fence(self) -> FenceState | None:
        safe = self.head()
        with self._described() as (connection, info, query):
            waited = self._fence.waiting()
            if waited is None:
                return None
            holders = connection.execute(holders_sql(info.written)).fetchall()
            found = connection.execute(f"SELECT max({query.position}) FROM {query.table}").fetchone()
        ages = [row[1] for row in holders if row[1] is not None]  # others' are for monitors to see
        newest = found[0] if found else None
        return FenceState(safe, newest, max([waited, *ages]), tuple(map(described, holders)))

    def find(self, event_id: str) -> Any:
        with self._snapshot() as (connection, info, query):
            condition, parameters = self._find(event_id, info) or ("false", ())
            return read_events(connection, query, None, MAX_FOUND, condition, parameters)

    @property
    def told(self) -> bool:
        return bool(self._channel)

    def wait(self, seconds: float) -> None:
        """Until something is heard on the channel. Without one it sleeps."""
        if not self._channel:
            sleep(seconds)
            return
        with self._connected() as connection:  # takes in what has come
            if self._listening is not connection:
                connection.add_notify_handler(self._hear)
                connection.execute(f"LISTEN {quoted(self._channel)}")
                self._listening = connection
                return  # what came before may not have been told
            if self._heard:
                self._heard = False
                return
        with suppress(OSError, ValueError):  # closed meanwhile
            if not select.select([connection], [], [], seconds)[0]:  # others may use the connection
                return
        with self._connected():
            self._heard = False

    def _hear(self, notice: psycopg.Notify) -> None:
        self._heard = True

    def index_check(self) -> PlainCheck:
        return PlainCheck(self.faults)

    def faults(self) -> list[str]:
        """Counts the table's rows without any index, and again along each plain B-tree index: an index that
        lacks rows leads the application past its events. Also rows with no position or one that another has,
        which ``read`` may pass over. It compares numbers, not contents; ``pg_amcheck --heapallindexed``, run
        by the server's administrator, does."""
        connection = connect(self._server)  # of its own, so that others read meanwhile
        try:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            info, query = self._look_up(connection)
            connection.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            connection.execute(BY_ROWS)
            position = query.position
            count, placed, places = connection.execute(
                f"SELECT count(*), count({position} + 0), count(DISTINCT {position}) FROM {query.table}"
            ).fetchone() or (0, 0, 0)
            faults = []
            if placed < count:
                faults.append(f"{count - placed} rows have no position")
            if places < placed:
                faults.append(f"{placed - places} rows have the position of another")
            connection.execute(BY_INDEX)
            for index, columns in connection.execute(INDEXES, (info.name,)).fetchall():
                ordered = f"SELECT 1 FROM {query.table} ORDER BY {', '.join(columns)}"
                seen = connection.execute(f"SELECT count(*) FROM ({ordered}) AS q").fetchone()
                if seen and seen[0] != count:
                    faults.append(f"index {index} leads to {seen[0]} of {count} rows")
            return faults
        except psycopg.Error as error:
            raise explained(error, self._server) from error
        finally:
            connection.close()

    def now(self) -> int:
        with self._connected() as connection:
            found = connection.execute("SELECT floor(extract(epoch FROM clock_timestamp()))::int8").fetchone()
            return int(found[0]) if found else 0

    def how_to_erase(self, ranges: Ranges, *, rows: bool = False) -> str:
        with self._described() as (_, info, query):
            sql = erasing(query.table, [] if rows else self._payload(query), query.position, ranges)
        return f"{sql}\nVACUUM (FULL, ANALYZE) {info.name};"

    def _payload(self, query: EventQuery) -> list[str]:
        """The columns to make null so that an event has neither data nor metadata; none where that cannot
        be, and whole rows are deleted."""
        return []

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._listening = None

    # -- the connection

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[psycopg.Connection[Any], TableInfo, EventQuery]]:
        """One view of the database for all queries in it, and the table as it is there."""
        with self._connected() as connection:
            outer = connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
            if not outer:  # else read while appending: the batches to append may come from here
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            try:
                connection.execute(f"SAVEPOINT {SAVEPOINT}")
                yield (connection, *self._look_up(connection))
            finally:
                with suppress(psycopg.Error):  # the connection may be gone, and the first error says why
                    connection.execute(f"RELEASE SAVEPOINT {SAVEPOINT}" if outer else "ROLLBACK")

    @contextmanager
    def _described(self) -> Iterator[tuple[psycopg.Connection[Any], TableInfo, EventQuery]]:
        """The table as it is, with every query seeing the last commit."""
        with self._connected() as connection:
            yield (connection, *self._look_up(connection))

    def _look_up(self, connection: psycopg.Connection[Any]) -> tuple[TableInfo, EventQuery]:
        table = self._server.options.get("table") or self._detect(connection)
        schema = self._server.options.get("schema") or self.default_schema
        name = f"{quoted(schema)}.{quoted(table)}" if schema else quoted(table)
        found = connection.execute(DESCRIBE, (name,)).fetchone()
        if found is None:
            raise self._absent(f"{schema}.{table}" if schema else table)
        schema, table, kind, columns, types, required, unique, heirs, sequences = found
        if kind not in ("r", "p"):
            raise StoreError(
                f"{table} in {self.url} is no ordinary table", hint="events are read from tables, not views"
            )
        described = dict(zip(columns, types, strict=True))
        sequences += self._sequences(connection, schema)
        info = TableInfo(schema, table, described, frozenset(required), frozenset(unique), heirs, sequences)
        return info, self._query(info)

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[Any]]:
        """The connection, for this thread alone, with the driver's errors as ours."""
        with self._lock:
            if self._connection is None or not is_alive(self._connection):
                self.close()
                self._connection = connect(self._server)
            try:
                yield self._connection
            except (psycopg.Error, UnicodeError) as error:
                raise explained(error, self._server) from error

    def _absent(self, table: str) -> StoreError:
        new = (
            "`eventchain init` makes an empty one for a new chain"
            if self.creatable
            else "its application makes it"
        )
        return StoreError(
            f"there is no event store at {self.url}: no table {table}",
            hint=f"check the URL; {new}; one whose events are sealed already comes back from a backup only",
        )
