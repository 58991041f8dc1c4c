"""A NATS subject: the watermark as JSON, published and flushed to the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from eventchain.errors import ConfigError
from eventchain.service.watermark import Watermark

TIMEOUT = 5.0


class NatsSubject:
    """Used by one thread, which runs the client's loop while it announces."""

    name = "nats"

    def __init__(self, url: str, subject: str) -> None:
        try:
            import nats
        except ImportError as error:
            raise ConfigError(
                f"announcing by NATS needs a library: {error}", hint="pip install nats-py"
            ) from None
        self._nats, self._url, self._subject = nats, url, subject
        self._loop = asyncio.new_event_loop()
        self._connection: Any = None

    def announce(self, mark: Watermark) -> None:
        self._loop.run_until_complete(self._publish(json.dumps(mark.as_dict()).encode()))

    async def _publish(self, message: bytes) -> None:
        if self._connection is None:
            # The caller tries again by itself, at a pace of its own.
            self._connection = await self._nats.connect(
                self._url, connect_timeout=TIMEOUT, allow_reconnect=False, max_reconnect_attempts=1,
                error_cb=_ignore,
            )  # fmt: skip
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


async def _ignore(error: Exception) -> None:
    """What fails is raised where it was asked for."""
