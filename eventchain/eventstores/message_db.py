"""The messages of message-db, the event store for PostgreSQL of the Eventide project."""

from __future__ import annotations

import re
from typing import Any

from eventchain.errors import StoreError
from eventchain.eventstores.postgresql_arrow import EventQuery
from eventchain.eventstores.postgresql_columns import has_micros, micros_of
from eventchain.eventstores.postgresql_table import PostgreSQLTable, TableInfo

TYPES = {
    "id": "uuid",
    "stream_name": "text",
    "type": "text",
    "position": "bigint",
    "global_position": "bigint",
    "data": "jsonb",
    "metadata": "jsonb",
    "time": "timestamp without time zone",
}
# Infinity, and what is beyond 64 bits, has no number: the row is then an irregular one, told from others
# by the text of its time behind that of its metadata.
NUMBERED = has_micros("time")
MICROSECONDS = f"CASE WHEN {NUMBERED} THEN {micros_of('time')} END"
METADATA = (
    f"textsend(CASE WHEN {NUMBERED} THEN metadata::text ELSE concat(metadata::text, ' ', time::text) END)"
)


class MessageDBStore(PostgreSQLTable):
    """``message-db+postgresql://user@host/message_store``: the table ``message_store.messages``, read only.

    Declaration 1: position = ``global_position``; stream = ``stream_name``; version = ``position``; id =
    ``id``; type = ``type``; time = ``time``, which message-db keeps in UTC; data and metadata = the
    ``::text`` of the jsonb columns in UTF-8, since PostgreSQL keeps a parsed form and not the bytes that were
    written. A table with further columns is refused.
    """

    source = "message-db-postgresql/1"
    default_schema = "message_store"
    default_table = "messages"

    def __init__(self, url: str) -> None:
        super().__init__(url)

    def _query(self, info: TableInfo) -> EventQuery:
        where = f"the table {info.table} in {self.url}"
        if wrong := sorted({name for name, _ in info.types.items() ^ TYPES.items()}):
            raise StoreError(
                f"{where} is not message-db's: {', '.join(wrong)}",
                hint="columns are missing, further or of other types; further data belongs in another table",
            )
        if "global_position" not in info.required & info.unique:
            raise StoreError(f"global_position is not unique in {where[4:]}", hint="the schema was changed")
        return EventQuery(
            table=info.name,
            position="global_position",
            stream="stream_name",
            version="position",
            id="id",
            type="type",
            time=MICROSECONDS,
            data="textsend(data::text)",
            metadata=METADATA,
        )

    def _payload(self, query: EventQuery) -> list[str]:
        return ["data", "metadata"]

    def _find(self, event_id: str, info: TableInfo) -> tuple[str, tuple[Any, ...]] | None:
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", event_id):
            return None
        return "id = %s::uuid", (event_id,)
