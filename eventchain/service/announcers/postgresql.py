"""PostgreSQL: a watermark table that readers can join with, and a NOTIFY in the same transaction.

``SELECT position FROM eventchain_watermark WHERE origin = '…'`` tells how far events are sealed; ``LISTEN
eventchain`` wakes those who wait. The table is made when it is missing.
"""

from __future__ import annotations

import json
from typing import Any

from eventchain.errors import ConfigError
from eventchain.service.watermark import Watermark

CHANNEL = "eventchain"
TIMEOUT = 5
_TABLE = """
CREATE TABLE IF NOT EXISTS eventchain_watermark (
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
    name = "postgresql"

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigError(
                f"announcing by PostgreSQL needs a library: {error}", hint="pip install 'psycopg[binary]'"
            ) from None
        self._psycopg, self._url = psycopg, url
        self._connection: Any = None

    def announce(self, mark: Watermark) -> None:
        try:
            if self._connection is None:
                self._connection = self._psycopg.connect(self._url, connect_timeout=TIMEOUT)
                (known,) = self._connection.execute("SELECT to_regclass('eventchain_watermark')").fetchone()
                if known is None:  # making it takes a right that is needed for nothing else
                    self._connection.execute(_TABLE)
            values = (mark.origin, mark.height, mark.seal, mark.position, mark.size, mark.time)
            self._connection.execute(_RAISE, values)
            self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, json.dumps(mark.as_dict())))
            self._connection.commit()
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()
