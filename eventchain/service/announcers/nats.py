"""A NATS subject: the watermark as JSON, published and flushed to the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from eventchain.errors import ConfigError, StoreError
from eventchain.nats.client import connect
from eventchain.nats.failures import explained
from eventchain.nats.urls import FORM, parse_url
from eventchain.service.watermark import Watermark

TIMEOUT = 5.0


class NatsSubject:
    """Used by one thread, which runs the client's loop while it announces. Raises ConfigError for a URL that
    is none."""

    name = "nats"

    def __init__(self, url: str, subject: str) -> None:
        self._server, self._subject = parse_url(url), subject
        if self._server.path:
            raise ConfigError("the URL of the NATS server to announce by has a path", hint=FORM)
        self._loop = asyncio.new_event_loop()
        self._connection: Any = None

    def announce(self, mark: Watermark) -> None:
        try:
            self._loop.run_until_complete(self._publish(json.dumps(mark.as_dict()).encode()))
        except Exception as error:
            message, hint = explained(error, self._server)
            raise StoreError(message, hint=hint) from None  # it may show a password

    async def _publish(self, message: bytes) -> None:
        if self._connection is None:
            self._connection = await connect(self._server, TIMEOUT)
        try:
            await self._connection.publish(self._subject, message)
            await self._connection.flush(timeout=TIMEOUT)  # the server has it
        except Exception:
            connection, self._connection = self._connection, None
            await connection.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._loop.run_until_complete(self._connection.close())
        self._loop.close()
