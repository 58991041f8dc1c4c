"""nats-py's client, with what it does not do."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any

from nats import errors
from nats.aio.client import Client as _NatsClient

from eventchain.errors import ConfigError
from eventchain.nats.failures import NoTLSError, forbids
from eventchain.nats.headers import Headers
from eventchain.nats.logins import check_credentials
from eventchain.nats.urls import ServerURL

# nats-py does not tell asyncio that a stream goes over TLS; asyncio notes it for every one that ends
logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in str(record.msg))


async def connect(url: ServerURL, timeout: float, credentials: str | None = None) -> Any:
    """A client that does not reconnect by itself: who uses it tries again at a pace of his own."""
    if credentials is not None:
        check_credentials(credentials)
    client = Client(url)
    await client.open(
        user_credentials=credentials, connect_timeout=timeout, allow_reconnect=False,
        max_reconnect_attempts=1, error_cb=_ignore,
    )  # fmt: skip
    return client


async def _ignore(error: Exception) -> None:
    """What fails is raised where it was asked for."""


class Client(_NatsClient):  # type: ignore[misc]  # nats-py has no types
    """nats-py's client of these servers, which have one login. ``prepare`` is called before each login, also
    when it reconnects; it may raise ConfigError, and returns how to set up TLS. Where it does, or one of the
    URLs is ``tls://``, nothing is sent in the clear."""

    def __init__(self, *urls: ServerURL, prepare: Callable[[], ssl.SSLContext | None] = lambda: None) -> None:
        super().__init__()
        self._urls, self._prepare = urls, prepare

    async def open(self, **options: Any) -> None:
        """Connect, with nats-py's options. The login of the URLs goes to servers that are found later too, as
        it does not with nats-py, and with what ``%XX`` stands for."""
        login = next((url.login for url in self._urls if url.login), {})
        await self.connect([url.server for url in self._urls], **login, **options)

    @property
    def has_tried_all(self) -> bool:
        """Every server that is known."""
        return all(server.last_attempt is not None for server in self._server_pool)

    async def _process_connect_init(self) -> None:
        try:
            if (context := self._prepare()) is not None:
                self.options["tls"] = context
            await super()._process_connect_init()
        except BaseException as error:
            # nats-py leaves it open, and closing would wait for an answer where it is TLS
            self._transport._io_writer.transport.abort()
            if isinstance(error, ConfigError):
                raise errors.Error(str(error)) from None  # the kind that does not end its attempts
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """nats-py would log in without TLS where the server, or who stands between, asks for none."""
        wanted = "tls" in self.options or any(url.server.startswith("tls:") for url in self._urls)
        if initial_connection and wanted:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NoTLSError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        """nats-py would close the connection for good, also where a login only expired."""
        if forbids(err_msg):
            await super()._process_err(err_msg)
        else:
            error = errors.Error(f"nats: {err_msg}")
            await self._error_cb(error)
            await self._process_op_err(error)

    async def _process_headers(self, headers: bytes) -> Headers | None:
        if not headers:
            return None
        found = Headers(await super()._process_headers(headers) or {})
        found.raw = bytes(headers)
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Headers | None
    ) -> Any:
        """nats-py loses the connection over a subject that is not UTF-8, which any publisher can send; here
        it has surrogates in it (PEP 383)."""
        message = super()._build_message(sid, b"", reply, data, headers)
        message.subject = subject.decode(errors="surrogateescape")
        return message
