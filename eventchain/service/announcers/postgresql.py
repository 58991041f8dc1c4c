"""PostgreSQL: a watermark table that readers can join with, and a NOTIFY in the same transaction.

``SELECT position FROM eventchain_watermark WHERE origin = '…'`` tells how far events are sealed; ``LISTEN
eventchain`` wakes those who wait. The table is made when it is missing.
"""

from __future__ import annotations

import json
from typing import Any

import psycopg

from eventchain.postgresql import connect, explained, home_schema, parse_url, quoted
from eventchain.service.watermark import Watermark

CHANNEL = "eventchain"
SECONDS = 5
"""What the server may take for a statement."""
_TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.eventchain_watermark (
    origin text PRIMARY KEY,
    height bigint NOT NULL,
    seal bytea NOT NULL,
    position bigint,
    size bigint NOT NULL,
    announced timestamptz NOT NULL
)"""
_RAISE = """
INSERT INTO eventchain_watermark (origin, height, seal, position, size, announced)
VALUES (%s, %s, %s, %s, %s, to_timestamp(%s))
ON CONFLICT (origin) DO UPDATE SET height = excluded.height, seal = excluded.seal,
    position = excluded.position, size = excluded.size, announced = excluded.announced
WHERE excluded.size >= eventchain_watermark.size"""


class PostgresqlNotify:
    """Used by one thread. Raises ConfigError for a URL that is none."""

    name = "postgresql"

    def __init__(self, url: str) -> None:
        self._server = parse_url(url)
        self._connection: psycopg.Connection[Any] | None = None

    def announce(self, mark: Watermark) -> None:
        try:
            if self._connection is None:
                self._connection = self._connected()
            values = (mark.origin, mark.height, mark.seal, mark.position, mark.size, mark.time)
            with self._connection.transaction():
                self._connection.execute(_RAISE, values)
                self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, json.dumps(mark.as_dict())))
        except psycopg.Error as error:
            self.close()
            raise explained(error, self._server) from error

    def _connected(self) -> psycopg.Connection[Any]:
        connection = connect(self._server, read_only=False)
        try:
            connection.execute(f"SET statement_timeout = '{SECONDS}s'")
            known = connection.execute("SELECT to_regclass('eventchain_watermark')").fetchone()
            if known is None or known[0] is None:  # making it takes a right that is needed for nothing else
                schema = home_schema(connection, self._server)
                connection.execute(_TABLE.format(schema=quoted(schema)))
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
