"""NATS: how to log in, and what streams, consumers and subjects are called."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from eventchain.errors import BackendError, ConfigError
from eventchain.nats.client import Client
from eventchain.nats.failures import explained, forbids
from eventchain.nats.logins import check_credentials, check_seed
from eventchain.nats.urls import ServerURL, parse_servers

ROOT = "eventchain.fleet"
OVER, ALIVE = f"{ROOT}.over", f"{ROOT}.alive"
DEFAULT_GROUP = "workers"
TIMEOUT = 3.0
"""Seconds that an answer of JetStream may take."""
CONNECT_SECONDS = 4.0
RECONNECT_SECONDS = 0.5
PING_SECONDS = 5
"""Between two pings of a connection, which is given up after two without an answer: a line that has fallen
silent tells nobody."""
logger = logging.getLogger("eventchain")


@dataclass(frozen=True, slots=True)
class Login:
    """Where a NATS server is and how to log in; each but ``nats`` None where it is not needed.

    nats: one URL or several with commas between them, ``nats://`` or ``tls://``
    creds, nkey: a credentials file, or a file with an nkey's seed
    tls_ca, tls_cert, tls_key: PEM files: whom to trust, and this side's certificate and key

    Raises ConfigError for what cannot be.
    """

    nats: str
    creds: str | None = None
    nkey: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        parse_servers(self.nats)
        if self.creds and self.nkey:
            raise ConfigError("both a credentials file and an nkey are given", hint="give one of them")
        if self.tls_key and not self.tls_cert:
            raise ConfigError("a TLS key is given without its certificate", hint="give tls_cert too")
        self.read()

    @property
    def shown(self) -> str:
        """The servers, without what is secret."""
        return ", ".join(url.shown for url in parse_servers(self.nats))

    def read(self) -> ssl.SSLContext | None:
        """Look at the files, which are read anew for every login: keys and certificates are renewed while a
        worker runs for months. Returns how to set up TLS, None where no file says. Raises ConfigError."""
        if self.creds:
            check_credentials(self.creds)
        if self.nkey:
            check_seed(self.nkey)
        if not (self.tls_ca or self.tls_cert):
            return None
        files = self.tls_ca
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert:
                files = " and ".join(filter(None, (self.tls_cert, self.tls_key)))
                context.load_cert_chain(self.tls_cert, self.tls_key, password="")  # not asked on a terminal
        except OSError as error:  # ssl's own as well
            reason = getattr(error, "reason", error.strerror) or "not read as PEM"
            raise ConfigError(
                f"TLS cannot be set up with {files}: {reason.replace('_', ' ').lower()}",
                hint="files are PEM, a key is not encrypted, and a certificate is the one of its key",
            ) from None
        return context

    async def connect(
        self,
        name: str,
        on_reconnect: Callable[[], Awaitable[None]] | None = None,
        on_refused: Callable[[BackendError], None] | None = None,
    ) -> Any:
        """A connection that comes back by itself for as long as it is needed. Its inboxes are named after
        ``name``, so that a server can keep workers out of each other's. ``on_refused`` is told what the login
        does not allow.

        Raises BackendError where no server answers or lets us in, ConfigError where the library is missing.
        """
        urls = parse_servers(self.nats)
        client = Client(*urls, prepare=self.read)
        events = _Events(client, urls, on_reconnect, on_refused)
        opening = client.open(
            name=name, user_credentials=self.creds, nkeys_seed=self.nkey,
            inbox_prefix=f"_INBOX.{token(name)}", allow_reconnect=True, max_reconnect_attempts=-1,
            connect_timeout=int(CONNECT_SECONDS), reconnect_time_wait=RECONNECT_SECONDS,
            ping_interval=PING_SECONDS, max_outstanding_pings=2,
            error_cb=events.on_error, reconnected_cb=events.on_return,
        )  # fmt: skip
        try:
            await _unless(events.hopeless, opening, events.failures)
        except ImportError as error:
            raise ConfigError(
                f"this login needs a library: {error}", hint="pip install 'nats-py[nkeys]'"
            ) from None
        except Exception as error:  # nats-py's own, OSError, ssl's and those of nkeys; it may show a password
            raise _failure(error, urls) from None
        events.standing = True
        return client


class _Events:
    """Of a connection. ``failures``: until it is ``standing``; from then on they are logged, each once until
    NATS is there again. ``hopeless``: every server has failed."""

    def __init__(
        self,
        client: Client,
        urls: Sequence[ServerURL],
        on_reconnect: Callable[[], Awaitable[None]] | None,
        on_refused: Callable[[BackendError], None] | None,
    ) -> None:
        self.standing = False
        self.failures: list[Exception] = []
        self.hopeless = asyncio.Event()
        self._client, self._urls = client, urls
        self._on_reconnect, self._on_refused = on_reconnect, on_refused
        self._logged: set[str] = set()

    async def on_error(self, error: Exception) -> None:
        if not self.standing:
            self.failures.append(error)
            if self._client.has_tried_all:
                self.hopeless.set()
            return
        failure = _failure(error, self._urls)
        if forbids(error) and self._on_refused is not None:
            self._on_refused(failure)
        elif failure.message not in self._logged:
            self._logged.add(failure.message)
            logger.warning("%s", failure.message)

    async def on_return(self) -> None:
        self._logged.clear()
        logger.warning("NATS is there again")
        if self._on_reconnect is not None:
            await self._on_reconnect()


def _failure(error: Exception, urls: Sequence[ServerURL]) -> BackendError:
    message, hint = explained(error, *urls)
    return BackendError(
        f"NATS at {message}", hint=hint or "is nats-server there, and are name and port right?"
    )


async def _unless(
    hopeless: asyncio.Event, connection: Coroutine[Any, Any, None], failures: list[Exception]
) -> None:
    """Wait for the connection, unless every server has refused it or none answers: nats-py would go on
    trying."""
    connecting, giving_up = asyncio.create_task(connection), asyncio.create_task(hopeless.wait())
    await asyncio.wait({connecting, giving_up}, timeout=CONNECT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    giving_up.cancel()
    if connecting.done():
        return connecting.result()
    while not connecting.done():  # Python 3.11's wait_for may swallow it
        connecting.cancel()
        await asyncio.wait({connecting}, timeout=1)
    if not connecting.cancelled() and connecting.exception() is None:
        return None  # at the last moment
    telling = [one for one in failures if not isinstance(one, ConnectionError)]  # as nats-py adds to another
    raise next(iter(telling or failures), TimeoutError())


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
