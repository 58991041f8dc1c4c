"""The events of applications written with the Python library ``eventsourcing``, persisted in PostgreSQL."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import psycopg

from eventchain.errors import ConfigError, StoreError
from eventchain.eventstores.postgresql_arrow import EventQuery
from eventchain.eventstores.postgresql_columns import json_of
from eventchain.eventstores.postgresql_table import PostgreSQLTable, TableInfo
from eventchain.formats.event import UNKNOWN
from eventchain.postgresql import fits

COLUMNS = {
    "notification_id": ("bigint",),
    "originator_id": ("uuid", "text"),
    "originator_version": ("bigint",),
    "topic": ("text",),
    "state": ("bytea",),
}
DETECT = """
SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND CASE WHEN %s::text IS NULL THEN pg_table_is_visible(c.oid) ELSE n.nspname = %s END
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND (SELECT count(*) FROM pg_attribute AS a WHERE a.attrelid = c.oid AND NOT a.attisdropped
       AND a.attname = ANY(%s)) = 5
ORDER BY 1
"""


class EventsourcingPostgreSQLStore(PostgreSQLTable):
    """``eventsourcing+postgresql://user@host/database?table=stored_events``, read only; for applications with
    and without POSTGRES_ENABLE_DB_FUNCTIONS.

    Declaration 1: position = ``notification_id``; stream = ``originator_id`` as text (a UUID with its
    hyphens); version = ``originator_version``; id = ``<originator_id>/<originator_version>``; type =
    ``topic``; data = the bytes of ``state``; time unknown, since the library keeps it inside ``state``.
    Further columns, which applications may add, make ``metadata`` a JSON object, see
    :mod:`.postgresql_columns`;
    without any, metadata is null.

    Without ``table``, the one table with the library's columns in the schema. Snapshots have no
    ``notification_id`` and are none.
    """

    source = "eventsourcing-postgresql/1"

    def __init__(self, url: str) -> None:
        super().__init__(url)

    def _query(self, info: TableInfo) -> EventQuery:
        where = f"the table {info.table} in {self.url}"
        if missing := [name for name in COLUMNS if name not in info.types]:
            raise StoreError(
                f"{where} lacks {', '.join(missing)}",
                hint="is it the event table of an `eventsourcing` application?",
            )
        if other := [f"{n} ({info.types[n]})" for n, kinds in COLUMNS.items() if info.types[n] not in kinds]:
            raise StoreError(f"{where} has other types: {', '.join(other)}", hint="the schema was changed")
        if "notification_id" not in info.required & info.unique:
            raise StoreError(f"notification_id is not unique in {where[4:]}", hint="the schema was changed")
        return EventQuery(
            table=info.name,
            position="notification_id",
            stream="originator_id",
            version="originator_version",
            id="originator_id::text || '/' || originator_version",
            type="topic",
            time=str(UNKNOWN),
            data="state",
            metadata=json_of({name: kind for name, kind in info.types.items() if name not in COLUMNS}),
        )

    def _payload(self, query: EventQuery) -> list[str]:
        """Columns that the application added may hold anything."""
        return ["state"] if query.metadata == "NULL" else []

    def _detect(self, connection: psycopg.Connection[Any]) -> str:
        schema = self._server.options.get("schema")
        names = [name for (name,) in connection.execute(DETECT, (schema, schema, list(COLUMNS))).fetchall()]
        if not names:
            raise StoreError(
                f"{self.url} has no event table of an `eventsourcing` application",
                hint="is this the database in POSTGRES_DBNAME? POSTGRES_SCHEMA becomes ?schema=",
            )
        if len(names) > 1:
            raise ConfigError(
                f"{self.url} has several event tables: {', '.join(names)}",
                hint="state in the URL which one the application writes: "
                + ", ".join(f"table={quote(name, safe='')}" for name in names),
            )
        return str(names[0])

    def _find(self, event_id: str, info: TableInfo) -> tuple[str, tuple[Any, ...]] | None:
        stream, _, version = event_id.rpartition("/")
        if not re.fullmatch(r"-?[0-9]{1,19}", version) or abs(int(version)) >= 2**63 or not fits(stream):
            return None
        kind = info.types["originator_id"]
        if kind == "uuid" and not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", stream):
            return None
        return f"originator_id = %s::{kind} AND originator_version = %s", (stream, int(version))
