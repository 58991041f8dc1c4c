"""NATS: how to log in, and what streams, consumers and subjects are called."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eventchain.errors import BackendError, ConfigError

ROOT = "eventchain.fleet"
OVER, ALIVE = f"{ROOT}.over", f"{ROOT}.alive"
DEFAULT_GROUP = "workers"
TIMEOUT = 3.0
"""Seconds that an answer of JetStream may take."""
CONNECT_SECONDS = 4.0
RECONNECT_SECONDS = 0.5
logger = logging.getLogger("eventchain")


@dataclass(frozen=True, slots=True)
class Login:
    """Where a NATS server is and how to log in; each but ``nats`` None where it is not needed.

    nats: one URL or several with commas between them, ``nats://`` or ``tls://``
    creds, nkey: a credentials file, or a file with an nkey's seed
    tls_ca, tls_cert, tls_key: PEM files: whom to trust, and this side's certificate and key
    """

    nats: str
    creds: str | None = None
    nkey: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        for url in self.servers:
            if urlsplit(url).scheme not in {"nats", "tls"} or not urlsplit(url).hostname:
                raise ConfigError(
                    f"{without_password(url)!r} is no NATS server", hint="write nats://host:4222"
                )
        if self.creds and self.nkey:
            raise ConfigError("both a credentials file and an nkey are given", hint="give one of them")
        if self.tls_key and not self.tls_cert:
            raise ConfigError("a TLS key is given without its certificate", hint="give tls_cert too")
        for file in (self.creds, self.nkey, self.tls_ca, self.tls_cert, self.tls_key):
            if file and not Path(file).is_file():
                raise ConfigError(f"there is no file {file}", hint="it is needed to log in to NATS")

    @property
    def servers(self) -> list[str]:
        return [url.strip() for url in self.nats.split(",")]

    def tls(self) -> ssl.SSLContext | None:
        if not (self.tls_ca or self.tls_cert):
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"TLS cannot be set up: {error}", hint="the files are PEM") from error
        return context

    async def connect(self, name: str, on_reconnect: Callable[[], Awaitable[None]] | None = None) -> Any:
        """A connection that comes back by itself for as long as it is needed. Its inboxes are named after
        ``name``, so that a server can keep workers out of each other's.

        Raises BackendError where no server answers or lets us in, ConfigError where the library is missing.
        """
        try:
            import nats
        except ImportError as error:
            raise ConfigError(
                f"the fleet needs a library: {error}", hint="pip install 'nats-py[nkeys]'"
            ) from None
        where = ", ".join(map(without_password, self.servers))
        errors: list[Exception] = []
        hopeless = asyncio.Event()

        async def note(error: Exception) -> None:
            logger.info("NATS: %s", str(error) or type(error).__name__)
            if not hopeless.is_set():  # only what comes before the first connection is of use
                errors.append(error)
            if len(errors) >= len(self.servers):
                hopeless.set()

        try:
            connection = nats.connect(
                self.servers, name=name, tls=self.tls(), user_credentials=self.creds, nkeys_seed=self.nkey,
                inbox_prefix=f"_INBOX.{token(name)}", allow_reconnect=True, max_reconnect_attempts=-1,
                connect_timeout=int(CONNECT_SECONDS), reconnect_time_wait=RECONNECT_SECONDS, ping_interval=5,
                max_outstanding_pings=2, error_cb=note, reconnected_cb=on_reconnect,
            )  # fmt: skip
            return await _unless(hopeless, connection, errors)
        except ImportError as error:
            raise ConfigError(f"this login needs a library: {error}", hint="pip install nkeys") from None
        except ConfigError:
            raise
        except Exception as error:  # nats-py raises its own errors, OSError, ssl's and those of nkeys
            reason = str(error) or type(error).__name__
            raise BackendError(
                f"NATS at {where}: {reason}", hint="is nats-server there, and are name and key right?"
            ) from error


async def _unless(
    hopeless: asyncio.Event, connection: Coroutine[Any, Any, Any], errors: list[Exception]
) -> Any:
    """The connection, unless every server has refused it or none answers: nats-py would go on trying."""
    connecting, giving_up = asyncio.create_task(connection), asyncio.create_task(hopeless.wait())
    await asyncio.wait({connecting, giving_up}, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    giving_up.cancel()
    if connecting.done():
        return connecting.result()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    raise errors[-1] if errors else TimeoutError("it does not answer")


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


# -- names ------------------------------------------------------------------------------------------------


def token(text: str) -> str:
    """Text as one token of a NATS subject."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)[:48] or "_"


def this_host() -> str:
    return token(socket.gethostname())


def new_id() -> int:
    """A random u64."""
    return secrets.randbits(64)


def check_group(group: str) -> str:
    """Raises ConfigError unless the name of a group of workers is one token."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", group):
        raise ConfigError(
            f"{group!r} cannot name a group of workers", hint="letters, digits, - and _, at most 32"
        )
    return group


def stream_of(group: str) -> str:
    return f"EVENTCHAIN_FLEET_{group}"


def consumer_of(size_class: int) -> str:
    return f"size-{size_class}"


def work_subject(group: str, size_class: int | str) -> str:
    return f"{ROOT}.work.{group}.{size_class}"


def worker_subject(kind: str, group: str, worker: str) -> str:
    """``kind``: here, done or shut; ``worker``: ``<host>.<id>``."""
    return f"{ROOT}.{kind}.{group}.{worker}"


def coordinator_subject(coordinator: int) -> str:
    """A coordinator listens there and says nothing: NATS tells who asks at once when nobody is there."""
    return f"{ROOT}.there.{coordinator:016x}"


def worker_of(subject: str) -> tuple[str, str]:
    """Group and worker of such a subject."""
    _, _, _, group, host, number = subject.split(".")
    return group, f"{host}.{number}"
